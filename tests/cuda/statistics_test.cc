// The statistics of whole models on the GPU against the CPU's: sums of squared gradients of sampled
// labels by clusters of rows, and second moments of the inputs, of every linear.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/model/model_test_util.h"

namespace cvxq {
namespace {

using Sums = std::map<std::string, std::vector<float>>;

constexpr int64_t kClusterRows = 8;

// One sequence's part of the statistics, as the pipeline takes them. Labels are drawn once, and
// `head`, the gradient of the logits, is the same for all: a label more or less that falls the
// other way by what is rounded is no error.
Sums Statistics(const TestModel& test, const Golden& golden, std::vector<float>& head) {
  Model& model = *test.model;
  Backend& backend = *test.backend;
  const ArchSpec& spec = model.spec();
  const Wave wave = golden.wave();
  std::vector<Tensor> inputs;
  Tensor x = *model.Embed(wave, test.Ids(golden.Ints("ids")));
  for (int64_t i = 0; i < spec.layers; ++i) {
    inputs.push_back(backend.Allocate(DType::kF32, x.shape));
    backend.Convert(x, inputs.back());
    EXPECT_TRUE(model.ForwardBlock(i, wave, x, nullptr).ok());
  }
  const Tensor logits = model.Logits(model.FinalHidden(x));
  const Tensor g_logits = backend.Allocate(DType::kF32, logits.shape);
  if (head.empty()) {
    backend.SampleLabelGradient(logits, 17, 0, g_logits);
    head = ToFloats(g_logits, backend);
  }
  backend.Upload(head.data(), g_logits);
  Tensor g = model.FinalHiddenBackward(x, model.LogitsBackward(logits, g_logits));

  Sums sums;
  for (int64_t i = spec.layers - 1; i >= 0; --i) {
    const LinearObserver observer = [&](LinearId id, const Tensor& input, const Tensor& gy) {
      const int64_t M = spec.rows(id), N = spec.columns(id);
      std::vector<int32_t> cluster(M);
      for (int64_t m = 0; m < M; ++m) cluster[m] = static_cast<int32_t>(m / kClusterRows);
      const Tensor rows = backend.Allocate(DType::kI32, {M});
      backend.Upload(cluster.data(), rows);
      const Tensor squares = backend.Allocate(DType::kF32, {cluster.back() + 1, N}),
                   moment = backend.Allocate(DType::kF32, {N, N});
      backend.Fill(squares, 0);
      backend.Fill(moment, 0);
      backend.AddSquaredGradient(gy, input, rows, Tensor(), squares);
      backend.AddSecondMoment(input, moment);
      sums[spec.LinearName(i, id) + " squared gradients"] = ToFloats(squares, backend);
      sums[spec.LinearName(i, id) + " second moment"] = ToFloats(moment, backend);
    };
    EXPECT_TRUE(model.BackwardBlock(i, wave, inputs[i], g, &observer).ok());
  }
  EXPECT_TRUE(backend.Synchronize().ok());
  return sums;
}

class CudaStatisticsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaStatisticsTest, WithinOnePercentOfTheCpu) {
  if (TestBackends().empty()) GTEST_SKIP() << MakeCudaBackend().status().message();
  const std::string folder = DataFolder() + GetParam();
  const Golden golden(folder + "/golden.safetensors");
  std::vector<float> head;
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    TestModel cpu = TestModel::Open(folder, MakeCpuBackend(2), {.compute = compute}),
              gpu = TestModel::Open(folder, "cuda", {.compute = compute});
    const Sums expected = Statistics(cpu, golden, head), actual = Statistics(gpu, golden, head);
    ASSERT_FALSE(expected.empty());
    double ratios = 0;  // of whole linears' squared gradients
    for (const auto& [name, sums] : expected) {
      const std::vector<float>& of_gpu = actual.at(name);
      EXPECT_LT(RelativeDifference(of_gpu, sums), compute == DType::kF32 ? 1e-4 : 0.06)
          << Name(compute) << " " << name;
      if (name.ends_with("moment")) continue;
      ratios += std::accumulate(of_gpu.begin(), of_gpu.end(), 0.0) /
                std::accumulate(sums.begin(), sums.end(), 0.0);
    }
    // Single sums are of few tokens here, so what BF16 rounds shows in them; it averages out.
    EXPECT_NEAR(ratios / (static_cast<double>(expected.size()) / 2), 1,
                compute == DType::kF32 ? 1e-5 : 0.01)
        << Name(compute);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaStatisticsTest,
                         testing::Values("llama", "opt", "qwen3", "gemma2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace cvxq
