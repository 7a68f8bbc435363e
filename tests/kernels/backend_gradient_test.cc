// The backward operations of the reference backend against finite differences of its forward ones.
// (The other backends are held against the reference in backend_ops_test.cc.)
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend_testing.h"

namespace cvxq {
namespace {

class BackendGradientTest : public ::testing::Test {
 protected:
  Tensor Random(const Shape& shape, uint64_t seed, float scale = 1) {
    return RandomTensor(*backend_, DType::kF32, shape, seed, scale);
  }
  Tensor Empty(const Shape& shape) { return backend_->Allocate(DType::kF32, shape); }

  // Holds `gradient`, the gradient of sum(gy * y) with respect to x, against differences of
  // forward(), which computes y from x anew. Fourth order: the errors of the step (h^4) and of y's
  // rounding to float (2^-24 / h) are both far below the tolerance.
  void ExpectGradient(const std::function<void()>& forward, const Tensor& x, const Tensor& y,
                      const Tensor& gy, const Tensor& gradient, double tolerance = 3e-4) {
    const std::vector<float> weight = Values(*backend_, gy), g = Values(*backend_, gradient);
    const std::vector<float> at = Values(*backend_, x);
    double largest = 0;
    for (float value : g) largest = std::max<double>(largest, std::abs(value));
    ASSERT_GT(largest, 0);
    const auto objective = [&](int64_t i, float step) {
      std::vector<float> moved = at;
      moved[i] += step;
      backend_->Upload(moved.data(), x);
      forward();
      const std::vector<float> out = Values(*backend_, y);
      double sum = 0;
      for (size_t j = 0; j < out.size(); ++j) sum += double{weight[j]} * out[j];
      return sum;
    };
    const float h = 1.0f / 64;
    for (size_t i = 0; i < at.size(); ++i) {
      const double near = objective(i, h) - objective(i, -h);
      const double far = objective(i, 2 * h) - objective(i, -2 * h);
      EXPECT_NEAR((8 * near - far) / (12 * h), g[i], tolerance * largest) << "element " << i;
    }
    backend_->Upload(at.data(), x);
    forward();
  }

  std::unique_ptr<Backend> backend_ = MakeReferenceBackend();
};

TEST_F(BackendGradientTest, Linear) {
  const Tensor x = Random({3, 7}, 1), w = Random({5, 7}, 2), gy = Random({3, 5}, 3);
  const Tensor y = Empty({3, 5}), gx = Empty({3, 7});
  backend_->LinearBackward(gy, w, gx, false);
  ExpectGradient([&] { backend_->Linear(x, w, {}, y); }, x, y, gy, gx);
}

TEST_F(BackendGradientTest, Norm) {
  for (NormKind kind : {NormKind::kRms, NormKind::kRmsPlusOne, NormKind::kLayer}) {
    const Tensor x = Random({4, 9}, 1, 2), w = Random({2, 9}, 2), b = Random({9}, 3);
    const Tensor gy = Random({4, 9}, 4), y = Empty({4, 9}), gx = Empty({4, 9});
    backend_->NormBackward(kind, 1e-5f, x, w, gy, gx, false);
    ExpectGradient([&] { backend_->Norm(kind, 1e-5f, x, w, b, y); }, x, y, gy, gx);
  }
}

TEST_F(BackendGradientTest, NormWeight) {
  for (NormKind kind : {NormKind::kRms, NormKind::kRmsPlusOne, NormKind::kLayer}) {
    for (const Shape& shape : {Shape{9}, Shape{2, 9}}) {
      const Tensor x = Random({6, 9}, 1, 2), w = Random(shape, 2), gy = Random({6, 9}, 4);
      const Tensor y = Empty({6, 9}), gw = Empty(shape);
      backend_->Fill(gw, 0);
      backend_->AddNormGradient(kind, 1e-5f, x, gy, gw);
      ExpectGradient([&] { backend_->Norm(kind, 1e-5f, x, w, {}, y); }, w, y, gy, gw);
    }
  }
}

TEST_F(BackendGradientTest, Attention) {
  const AttentionSpec plain{.heads = 2, .kv_heads = 2, .head_dim = 4, .scale = 0.5f};
  AttentionSpec grouped = plain, windowed = plain, capped = plain, all = plain;
  grouped.kv_heads = 1;
  windowed.window = 3;
  capped.softcap = 1.5f;
  all = {.heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.4f, .window = 4, .softcap = 2};
  for (const AttentionSpec& spec : {plain, grouped, windowed, capped, all}) {
    const int64_t B = 2, T = 6;
    const Shape wide{B * T, spec.heads * spec.head_dim},
        narrow{B * T, spec.kv_heads * spec.head_dim};
    const Tensor q = Random(wide, 1, 1.5f), k = Random(narrow, 2, 1.5f), v = Random(narrow, 3),
                 gy = Random(wide, 4);
    const Tensor y = Empty(wide), gq = Empty(wide), gk = Empty(narrow), gv = Empty(narrow);
    backend_->AttentionBackward(spec, B, q, k, v, gy, false, gq, gk, gv);
    const auto forward = [&] { backend_->Attention(spec, B, q, k, v, false, y); };
    ExpectGradient(forward, q, y, gy, gq);
    ExpectGradient(forward, k, y, gy, gk);
    ExpectGradient(forward, v, y, gy, gv);
  }
}

TEST_F(BackendGradientTest, Activation) {
  for (ActivationKind kind : {ActivationKind::kRelu, ActivationKind::kGelu,
                              ActivationKind::kGeluTanh, ActivationKind::kSilu}) {
    // Multiples of 1/16 off zero, so that no step crosses the corner of ReLU.
    std::vector<float> values = Numbers(24, 1, 3);
    for (float& x : values) x = (std::floor(x * 8) + 0.5f) / 8;
    const Shape shape{3, 8};
    const Tensor gate = MakeTensor(*backend_, DType::kF32, shape, values), up = Random(shape, 2),
                 gy = Random(shape, 3);
    const Tensor y = Empty(shape), ggate = Empty(shape), gup = Empty(shape);
    backend_->ActivationBackward(kind, gate, up, gy, ggate, gup);
    const auto gated = [&] { backend_->Activation(kind, gate, up, y); };
    ExpectGradient(gated, gate, y, gy, ggate);
    ExpectGradient(gated, up, y, gy, gup);
    backend_->ActivationBackward(kind, {}, gate, gy, {}, gup);
    ExpectGradient([&] { backend_->Activation(kind, {}, gate, y); }, gate, y, gy, gup);
  }
}

TEST_F(BackendGradientTest, ScaleAndCap) {
  for (float cap : {0.0f, 1.5f}) {
    const Tensor x = Random({20}, 1, 2), gy = Random({20}, 2), y = Empty({20}), g = Empty({20});
    const auto forward = [&] {
      backend_->Convert(x, y);
      backend_->ScaleAndCap(0.7f, cap, y);
    };
    forward();
    backend_->Convert(gy, g);
    backend_->ScaleAndCapBackward(0.7f, cap, y, g);
    ExpectGradient(forward, x, y, gy, g);
  }
}

TEST_F(BackendGradientTest, KlDivergence) {
  const Tensor p = Random({3, 6}, 1, 2), q = Random({3, 6}, 2, 2), g = Empty({3, 6});
  const Tensor kl = Empty({3}), agree = Empty({3}), ones = Empty({3});
  backend_->Fill(ones, 1);
  backend_->KlGradient(p, q, g);
  ExpectGradient([&] { backend_->KlDivergence(p, q, kl, agree); }, q, kl, ones, g);
}

// The gradient of log p(label), which for the drawn label must be onehot - softmax.
TEST_F(BackendGradientTest, SampledLabelsFollowTheSoftmax) {
  const int64_t n = 4000, V = 4;
  const std::vector<float> logits{0, 1, -1, 0.5f};
  std::vector<float> rows;
  double total = 0;
  for (float x : logits) total += std::exp(x);
  for (int64_t i = 0; i < n; ++i) rows.insert(rows.end(), logits.begin(), logits.end());
  const Tensor g = Empty({n, V});
  backend_->SampleLabelGradient(MakeTensor(*backend_, DType::kF32, {n, V}, rows), 5, 0, g);
  const std::vector<float> values = Values(*backend_, g);
  std::vector<int> drawn(V);
  for (int64_t i = 0; i < n; ++i) {
    int labels = 0;
    for (int64_t j = 0; j < V; ++j) {
      const double p = std::exp(logits[j]) / total, value = values[i * V + j];
      const bool label = value > 0;
      labels += label;
      drawn[j] += label;
      ASSERT_NEAR(value, (label ? 1 : 0) - p, 1e-6);
    }
    ASSERT_EQ(labels, 1);
  }
  for (int64_t j = 0; j < V; ++j) {
    const double p = std::exp(logits[j]) / total;
    EXPECT_NEAR(drawn[j] / double{n}, p, 4 * std::sqrt(p * (1 - p) / n));
  }
}

}  // namespace
}  // namespace cvxq
