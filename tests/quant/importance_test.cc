#include "quant/importance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

TEST(GroupImportance, IsTheLogarithmOfTheProduct) {
  const float huge = 1e30f, nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gradient = {4, 0, 3, huge, 1e-30f, nan, 1, infinity, 1e-40f};
  const std::vector<float> variance = {2, 5, 0, huge, 1e-30f, 1, nan, 1, 1};
  const std::vector<float> importance = GroupImportance(gradient, variance);
  ASSERT_EQ(importance.size(), gradient.size());
  EXPECT_EQ(importance[0], 3);
  EXPECT_EQ(importance[1], kNothing);
  EXPECT_EQ(importance[2], kNothing);
  EXPECT_NEAR(importance[3], 60 * std::log2(10.0), 1e-4);  // beyond the range of float
  EXPECT_NEAR(importance[4], -60 * std::log2(10.0), 1e-4);
  EXPECT_EQ(importance[5], kNothing);
  EXPECT_EQ(importance[6], kNothing);
  EXPECT_EQ(importance[7], kNothing);
  EXPECT_NEAR(importance[8], std::log2(1e-40), 1e-3);
}

struct Case {
  GroupLayout layout;
  CurvatureFactor factor;
  std::vector<float> row_gradient, mean_square;
  std::vector<uint8_t> depth;
  std::array<double, kMaxDepth + 1> distortion;
};

Case RandomCase(int64_t rows, int64_t n, int64_t cluster_size, uint64_t key) {
  Draws draws(key);
  Case c;
  c.layout = MakeGroupLayout(rows, n, Partition::kColumns, cluster_size, draws.Normals(rows));
  c.factor = *FactorCurvature(CorrelatedMoments(n, 4 * n + 3, key), n, 0.01);
  for (int64_t k = 0; k < c.layout.cluster_count(); ++k) {
    c.row_gradient.push_back(draws.Uniform(0.1f, 3));
  }
  for (int64_t g = 0; g < c.layout.group_count(); ++g) {
    c.mean_square.push_back(draws.Uniform(0.1f, 2));
    c.depth.push_back(static_cast<uint8_t>(draws.Below(kMaxDepth + 1)));
  }
  for (int b = 0; b <= kMaxDepth; ++b) c.distortion[b] = std::pow(3.7, -b);
  return c;
}

TEST(FeedbackImportance, FollowsTheRecursions) {
  for (const int64_t n : {1, 2, 33, 100}) {
    const Case c = RandomCase(23, n, 5, n);
    const std::vector<float> importance = FeedbackImportance(
        {&c.layout, &c.factor, c.row_gradient, c.mean_square, &c.depth, c.distortion});
    ASSERT_EQ(static_cast<int64_t>(importance.size()), c.layout.group_count());
    const auto l = [&](int64_t i, int64_t j) {
      return static_cast<double>(c.factor.lower[i * n + j]);
    };
    for (int64_t k = 0; k < c.layout.cluster_count(); ++k) {
      const auto group = [&](int64_t place) { return k * n + c.factor.order[place]; };
      const auto f = [&](int64_t place) { return c.distortion[c.depth[group(place)]]; };
      std::vector<double> variance(n), weight(n);
      for (int64_t i = n - 1; i >= 0; --i) {
        variance[i] = c.mean_square[group(i)];
        for (int64_t j = i + 1; j < n; ++j) variance[i] += l(j, i) * l(j, i) * f(j) * variance[j];
      }
      for (int64_t i = 0; i < n; ++i) {
        weight[i] = c.factor.diagonal[i];
        for (int64_t j = 0; j < i; ++j) weight[i] += l(i, j) * l(i, j) * f(j) * weight[j];
        EXPECT_NEAR(importance[group(i)], std::log2(c.row_gradient[k] * weight[i] * variance[i]),
                    1e-4);
      }
    }
  }
}

TEST(FeedbackImportance, WithoutDepthsOnlyTheDiagonalCounts) {
  constexpr int64_t kN = 40;
  const Case c = RandomCase(8, kN, 3, 5);
  const std::vector<float> importance = FeedbackImportance(
      {&c.layout, &c.factor, c.row_gradient, c.mean_square, nullptr, c.distortion});
  for (int64_t k = 0; k < c.layout.cluster_count(); ++k) {
    for (int64_t i = 0; i < kN; ++i) {
      const int64_t group = k * kN + c.factor.order[i];
      EXPECT_NEAR(importance[group],
                  std::log2(c.row_gradient[k] * c.factor.diagonal[i] * c.mean_square[group]), 1e-4);
    }
  }
}

TEST(FeedbackImportance, ClustersWithoutGradientTakeNothing) {
  Case c = RandomCase(8, 6, 4, 6);
  c.row_gradient[1] = 0;
  const std::vector<float> importance = FeedbackImportance(
      {&c.layout, &c.factor, c.row_gradient, c.mean_square, &c.depth, c.distortion});
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_TRUE(std::isfinite(importance[i]));
    EXPECT_EQ(importance[6 + i], kNothing);
  }
}

}  // namespace
}  // namespace cvxq
