// What backends in host memory promise beyond arithmetic: whose bytes a tensor uses, errors, NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend_testing.h"

namespace cvxq {
namespace {

class BackendMemoryTest : public ::testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam() ? MakeCpuBackend(2) : MakeReferenceBackend();
};

INSTANTIATE_TEST_SUITE_P(All, BackendMemoryTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "cpu" : "reference"; });

TEST_P(BackendMemoryTest, ImportUsesAlignedBytesAndCopiesOthers) {
  alignas(64) std::byte bytes[20] = {};
  const float values[3] = {1, 2, 3};
  std::memcpy(bytes, values, sizeof(values));
  const Tensor aligned = backend_->Import({DType::kF32, {3}, bytes});
  EXPECT_EQ(HostData<std::byte>(aligned), bytes);
  std::memcpy(bytes + 1, values, sizeof(values));
  const Tensor copied = backend_->Import({DType::kF32, {3}, bytes + 1});
  EXPECT_NE(HostData<std::byte>(copied), bytes + 1);
  EXPECT_EQ(Values(*backend_, copied), std::vector<float>({1, 2, 3}));
}

TEST_P(BackendMemoryTest, RowsShareTheBuffer) {
  const Tensor all = MakeTensor(*backend_, DType::kF32, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor middle = all.Rows(1, 2);
  EXPECT_EQ(middle.shape, Shape({1, 2}));
  backend_->Fill(middle, 9);
  EXPECT_EQ(Values(*backend_, all), std::vector<float>({1, 2, 9, 9, 5, 6}));
}

TEST_P(BackendMemoryTest, KeepsTheFirstErrorAndDoesNothingMore) {
  const Tensor small = backend_->Allocate(DType::kF32, {4});
  const Tensor huge = backend_->Allocate(DType::kF32, {int64_t{1} << 58});
  const Tensor later = backend_->Allocate(DType::kF32, {4});
  backend_->Fill(huge, 1);
  backend_->AddScaled(1, later, small);
  const Status status = backend_->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("[288230376151711744]"), std::string::npos) << status.message();
}

TEST_P(BackendMemoryTest, EmptyTensorsAreFine) {
  const Tensor x = backend_->Allocate(DType::kF32, {0, 5}),
               w = RandomTensor(*backend_, DType::kF32, {3, 5}, 1);
  const Tensor y = backend_->Allocate(DType::kF32, {0, 3}),
               h = backend_->Allocate(DType::kF32, {5, 5});
  backend_->Fill(h, 2);
  backend_->Linear(x, w, {}, y);
  backend_->AddSecondMoment(x, h);
  EXPECT_EQ(Values(*backend_, h), std::vector<float>(25, 2));
  EXPECT_TRUE(backend_->Synchronize().ok());
}

// Each operation that keeps shapes, given one NaN among numbers, gives NaN there.
TEST_P(BackendMemoryTest, NanGoesThrough) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const int64_t d = 37;
  const auto with_nan = [&](int64_t at) {
    std::vector<float> values = Numbers(d, 1);
    values[at] = nan;
    return MakeTensor(*backend_, DType::kF32, {1, d}, values);
  };
  const auto copy = [&](const Tensor& x, DType dtype) {
    const Tensor y = backend_->Allocate(dtype, x.shape);
    backend_->Convert(x, y);
    return y;
  };
  for (int64_t at : {int64_t{0}, int64_t{20}, d - 1}) {
    const Tensor x = with_nan(at), ones = RandomTensor(*backend_, DType::kF32, {1, d}, 2);
    std::vector<Tensor> outputs;
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) outputs.push_back(copy(x, dtype));
    for (ActivationKind kind : {ActivationKind::kRelu, ActivationKind::kGelu,
                                ActivationKind::kGeluTanh, ActivationKind::kSilu}) {
      const Tensor y = copy(x, DType::kF32);
      backend_->Activation(kind, x, ones, y);
      outputs.push_back(y);
    }
    const Tensor capped = copy(x, DType::kF32), normed = copy(x, DType::kF32),
                 g = copy(ones, DType::kF32), half_g = copy(ones, DType::kBF16);
    backend_->ScaleAndCap(1, 2, capped);
    backend_->Norm(NormKind::kLayer, 1e-5f, x, {}, {}, normed);
    backend_->SampleLabelGradient(x, 1, 2, g);
    backend_->SampleLabelGradient(x, 1, 2, half_g);
    const Tensor nll = backend_->Allocate(DType::kF32, {1}), kl = copy(nll, DType::kF32),
                 agree = copy(nll, DType::kF32);
    backend_->NegativeLogLikelihood(x, IntTensor(*backend_, {3}), nll);
    backend_->KlDivergence(x, ones, kl, agree);
    outputs.insert(outputs.end(), {capped, normed, g, half_g});
    for (size_t i = 0; i < outputs.size(); ++i) {
      EXPECT_TRUE(std::isnan(Values(*backend_, outputs[i])[at])) << "output " << i << " at " << at;
    }
    EXPECT_TRUE(std::isnan(Values(*backend_, nll)[0]));
    EXPECT_TRUE(std::isnan(Values(*backend_, kl)[0]));
  }
}

// Rows without a distribution: a gradient of NaN, no access out of range.
TEST_P(BackendMemoryTest, SamplesFromBrokenLogits) {
  const float inf = INFINITY;
  const Tensor logits = MakeTensor(*backend_, DType::kF32, {4, 3},
                                   {-inf, -inf, -inf, inf, 0, 1, -inf, 0, -inf, 300, 0, -300});
  const Tensor g = backend_->Allocate(DType::kF32, {4, 3});
  backend_->SampleLabelGradient(logits, 1, 2, g);
  const std::vector<float> values = Values(*backend_, g);
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(std::isnan(values[i])) << i;
  for (int i = 6; i < 12; ++i) EXPECT_EQ(values[i], 0) << i;  // one sure label
}

}  // namespace
}  // namespace cvxq
