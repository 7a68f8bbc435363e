// The statistics of whole models on the GPU against the CPU's: sums of squared gradients of sampled
// labels by clusters of rows, and second moments of the inputs, of every linear of every family.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/model/model_test_util.h"

namespace cvxq {
namespace {

using Sums = std::map<std::string, std::vector<float>>;

constexpr int64_t kClusterRows = 8;

// One sequence's part of the statistics, as the pipeline takes them.
Sums Statistics(const TestModel& test, const Golden& golden) {
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
  backend.SampleLabelGradient(logits, 17, 0, g_logits);
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
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    TestModel cpu = TestModel::Open(folder, MakeCpuBackend(2), {.compute = compute}),
              gpu = TestModel::Open(folder, "cuda", {.compute = compute});
    const Sums expected = Statistics(cpu, golden), actual = Statistics(gpu, golden);
    ASSERT_FALSE(expected.empty());
    double worst = 0;
    for (const auto& [name, sums] : expected) {
      const double distance = RelativeDifference(actual.at(name), sums);
      EXPECT_LT(distance, compute == DType::kF32 ? 1e-4 : 0.01) << Name(compute) << " " << name;
      worst = std::max(worst, distance);
    }
    RecordProperty(std::string("worst_") + std::string(Name(compute)), std::to_string(worst));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaStatisticsTest, testing::ValuesIn(AllCases()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace cvxq
