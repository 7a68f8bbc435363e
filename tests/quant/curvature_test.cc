#include "quant/curvature.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

// The largest difference between L D L^T and P H P^T + damping * mean diagonal, as a share of the
// largest entry of H; checks what else a factor promises on the way.
double FactorError(const CurvatureFactor& factor, const std::vector<float>& h, int64_t n) {
  EXPECT_EQ(factor.n, n);
  EXPECT_EQ(static_cast<int64_t>(factor.lower.size()), n * n);
  EXPECT_EQ(static_cast<int64_t>(factor.diagonal.size()), n);
  std::vector<int32_t> sorted = factor.order;
  std::sort(sorted.begin(), sorted.end());
  double trace = 0, largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(sorted[i], i);
    EXPECT_GT(factor.diagonal[i], 0);
    EXPECT_EQ(factor.lower[i * n + i], 1);
    for (int64_t j = i + 1; j < n; ++j) EXPECT_EQ(factor.lower[i * n + j], 0);
    if (i > 0) {
      const int64_t a = factor.order[i - 1], b = factor.order[i];
      EXPECT_TRUE(h[a * n + a] > h[b * n + b] || (h[a * n + a] == h[b * n + b] && a < b));
    }
    trace += h[i * n + i];
    largest = std::max(largest, static_cast<double>(h[i * n + i]));
  }
  double error = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double product = 0;
      for (int64_t k = 0; k <= j; ++k) {
        product += static_cast<double>(factor.lower[i * n + k]) * factor.diagonal[k] *
                   factor.lower[j * n + k];
      }
      double expected = h[factor.order[i] * n + factor.order[j]];
      if (i == j) expected += factor.damping * trace / n;
      error = std::max(error, std::abs(product - expected));
    }
  }
  return error / largest;
}

class FactorCurvatureOfSize : public testing::TestWithParam<int64_t> {};

TEST_P(FactorCurvatureOfSize, GivesHBack) {
  const int64_t n = GetParam();
  const std::vector<float> h = CorrelatedMoments(n, 2 * n + 8, n);
  for (const double damping : {0.01, 0.5}) {
    const StatusOr<CurvatureFactor> factor = FactorCurvature(h, n, damping);
    ASSERT_TRUE(factor.ok()) << factor.status();
    EXPECT_EQ(factor->damping, damping);
    EXPECT_LT(FactorError(*factor, h, n), 3e-6);
  }
}
INSTANTIATE_TEST_SUITE_P(, FactorCurvatureOfSize, testing::Values(1, 2, 95, 96, 97, 192, 300));

TEST(FactorCurvature, SingularHTakesDamping) {
  constexpr int64_t kN = 130;
  const std::vector<float> h = CorrelatedMoments(kN, 20, 1);  // of rank 20
  const StatusOr<CurvatureFactor> factor = FactorCurvature(h, kN, 0.01);
  ASSERT_TRUE(factor.ok()) << factor.status();
  EXPECT_EQ(factor->damping, 0.01);
  EXPECT_LT(FactorError(*factor, h, kN), 1e-5);
}

TEST(FactorCurvature, DampingRisesUntilTheFactorExists) {
  constexpr int64_t kN = 50;
  std::vector<float> h(kN * kN, 0.0f);
  for (int64_t i = 0; i < kN; ++i) h[i * kN + i] = 1;
  h[1] = h[kN] = 1.05f;  // an eigenvalue of -0.05: rounding, much exaggerated
  for (const double damping : {0.0, 0.001, 0.01}) {
    const StatusOr<CurvatureFactor> factor = FactorCurvature(h, kN, damping);
    ASSERT_TRUE(factor.ok()) << factor.status();
    EXPECT_GT(factor->damping, 0.05);
    EXPECT_LE(factor->damping, 0.100001);
    EXPECT_LT(FactorError(*factor, h, kN), 1e-5);
  }
}

TEST(FactorCurvature, RefusesWhatNoDampingMends) {
  std::vector<float> h = {1, 50, 50, 1};
  const StatusOr<CurvatureFactor> factor = FactorCurvature(h, 2, 0.01);
  EXPECT_EQ(factor.status().code(), absl::StatusCode::kDataLoss);
}

TEST(FactorCurvature, ZeroHIsTheIdentity) {
  constexpr int64_t kN = 100;
  const StatusOr<CurvatureFactor> factor =
      FactorCurvature(std::vector<float>(kN * kN, 0.0f), kN, 0.01);
  ASSERT_TRUE(factor.ok()) << factor.status();
  for (int64_t i = 0; i < kN; ++i) {
    EXPECT_EQ(factor->order[i], i);
    EXPECT_EQ(factor->diagonal[i], 1);
    for (int64_t j = 0; j < kN; ++j) EXPECT_EQ(factor->lower[i * kN + j], i == j ? 1 : 0);
  }
}

TEST(FactorCurvature, InputsThatNeverFireAreHarmless) {
  constexpr int64_t kN = 40;
  std::vector<float> h = CorrelatedMoments(kN, 100, 2);
  for (int64_t i = 0; i < kN; ++i) {
    for (const int64_t dead : {3, 17}) h[dead * kN + i] = h[i * kN + dead] = 0;
  }
  const StatusOr<CurvatureFactor> factor = FactorCurvature(h, kN, 0.01);
  ASSERT_TRUE(factor.ok()) << factor.status();
  EXPECT_LT(FactorError(*factor, h, kN), 3e-6);
  EXPECT_EQ(factor->order[kN - 2], 3);  // the least come last, equals by index
  EXPECT_EQ(factor->order[kN - 1], 17);
}

TEST(FactorCurvature, AnyScaleOfInputs) {
  constexpr int64_t kN = 97;
  const std::vector<float> h = CorrelatedMoments(kN, 300, 3);
  for (const float scale : {1e-25f, 1e-10f, 1e10f, 1e25f}) {
    std::vector<float> scaled = h;
    for (float& value : scaled) value *= scale;
    const StatusOr<CurvatureFactor> factor = FactorCurvature(scaled, kN, 0.01);
    ASSERT_TRUE(factor.ok()) << factor.status();
    EXPECT_LT(FactorError(*factor, scaled, kN), 3e-6) << scale;
  }
}

TEST(FactorCurvature, NotANumberIsRefusedWhereverItIs) {
  constexpr int64_t kN = 98;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (const auto& [i, j] :
         {std::pair<int64_t, int64_t>{0, 0}, {kN - 1, kN - 1}, {5, 5}, {90, 3}, {97, 96}, {1, 0}}) {
      std::vector<float> h = CorrelatedMoments(kN, 200, 4);
      h[i * kN + j] = h[j * kN + i] = bad;
      const StatusOr<CurvatureFactor> factor = FactorCurvature(std::move(h), kN, 0.01);
      EXPECT_EQ(factor.status().code(), absl::StatusCode::kDataLoss)
          << bad << " at " << i << ", " << j;
    }
  }
}

TEST(Cholesky, GivesTheMatrixBackInItsLowerTriangle) {
  constexpr int64_t kN = 400;
  std::vector<float> a = CorrelatedMoments(kN, 1000, 5);
  const std::vector<float> original = a;
  ASSERT_TRUE(CholeskyInPlace(a.data(), kN));
  double error = 0;
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double product = 0;
      for (int64_t k = 0; k <= j; ++k) {
        product += static_cast<double>(a[i * kN + k]) * a[j * kN + k];
      }
      error = std::max(error, std::abs(product - original[i * kN + j]) / original[0]);
    }
  }
  EXPECT_LT(error, 1e-5);
}

TEST(Cholesky, RefusesAMatrixThatIsNotPositive) {
  for (const int64_t at : {0, 50, 95, 96, 150, 199}) {
    constexpr int64_t kN = 200;
    std::vector<float> a(kN * kN, 0.0f);
    for (int64_t i = 0; i < kN; ++i) a[i * kN + i] = i == at ? -1.0f : 1.0f;
    EXPECT_FALSE(CholeskyInPlace(a.data(), kN)) << at;
    a[at * kN + at] = 0;
    EXPECT_FALSE(CholeskyInPlace(a.data(), kN)) << at;
  }
}

}  // namespace
}  // namespace cvxq
