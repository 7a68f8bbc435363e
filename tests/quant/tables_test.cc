#include "quant/tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

const LevelTables& Gaussian() {
  static const LevelTables tables = LloydMaxTables(2);
  return tables;
}
const LevelTables& Laplacian() {
  static const LevelTables tables = LloydMaxTables(1);
  return tables;
}
const LevelTables& Compander() {
  static const LevelTables tables = CompanderTables();
  return tables;
}

// Mass and first and second moment of the standard normal below x.
struct Moments {
  double mass, first, second;
};
Moments NormalBelow(double x) {
  const double density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
  const double mass = 0.5 * std::erfc(-x / std::sqrt(2.0));
  if (std::isinf(x)) return {mass, 0, mass};
  return {mass, -density, mass - x * density};
}

// Mean squared error of a table on the standard normal, and how far a level is from its centroid.
double NormalDistortion(const LevelTables& tables, int b, double* furthest) {
  const int n = 1 << b;
  double error = 0;
  *furthest = 0;
  for (int i = 0; i < n; ++i) {
    const Moments low = NormalBelow(i == 0 ? -INFINITY : tables.boundary[b][i - 1]);
    const Moments high = NormalBelow(i == n - 1 ? INFINITY : tables.boundary[b][i]);
    const double level = tables.table[b][i];
    const double mass = high.mass - low.mass, first = high.first - low.first;
    error += high.second - low.second - 2 * level * first + level * level * mass;
    *furthest = std::max(*furthest, std::abs(first / mass - level));
  }
  return error;
}

void ExpectWellFormed(const LevelTables& tables) {
  EXPECT_TRUE(tables.table[0].empty());
  EXPECT_EQ(tables.distortion[0], 1);
  for (int b = 1; b <= kMaxDepth; ++b) {
    const std::vector<float>&table = tables.table[b], &boundary = tables.boundary[b];
    const size_t n = size_t{1} << b;
    ASSERT_EQ(table.size(), n);
    ASSERT_EQ(boundary.size(), n - 1);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(table[i], -table[n - 1 - i]) << "depth " << b << " level " << i;
      if (i == 0) continue;
      EXPECT_LT(table[i - 1], boundary[i - 1]);
      EXPECT_GT(table[i], boundary[i - 1]);
      EXPECT_EQ(boundary[i - 1], -boundary[n - 1 - i]);
    }
    EXPECT_LT(tables.distortion[b], tables.distortion[b - 1]);
    EXPECT_GT(tables.distortion[b], 0);
  }
}

TEST(LevelTables, AreSymmetricAndAscending) {
  ExpectWellFormed(Gaussian());
  ExpectWellFormed(Laplacian());
  ExpectWellFormed(LloydMaxTables(1.4));
}

// Published values (Max 1960) for the Gaussian, and for the Laplacian.
TEST(LloydMax, DistortionsArePublishedOnes) {
  const double gaussian[] = {0.3634, 0.1175, 0.03454, 0.009497, 0.002505};
  for (int b = 1; b <= 5; ++b) {
    EXPECT_NEAR(Gaussian().distortion[b], gaussian[b - 1], 1e-3 * gaussian[b - 1]) << b;
  }
  const double laplacian[] = {0.5, 0.1762, 0.0545, 0.0154, 0.00410};
  for (int b = 1; b <= 5; ++b) {
    EXPECT_NEAR(Laplacian().distortion[b], laplacian[b - 1], 4e-3 * laplacian[b - 1]) << b;
  }
}

TEST(LloydMax, LevelsArePublishedOnes) {
  EXPECT_NEAR(Gaussian().table[1][1], 0.7979, 1e-4);
  EXPECT_NEAR(Gaussian().table[2][2], 0.4528, 2e-4);
  EXPECT_NEAR(Gaussian().table[2][3], 1.510, 5e-4);
  EXPECT_NEAR(Gaussian().table[3][4], 0.2451, 2e-4);
  EXPECT_NEAR(Gaussian().table[3][7], 2.152, 5e-4);
  EXPECT_NEAR(Laplacian().table[1][1], std::sqrt(0.5), 2e-4);
}

TEST(LloydMax, LevelsAreCentroidsAndBoundariesMidpoints) {
  for (int b = 1; b <= kMaxDepth; ++b) {
    double furthest;
    const double exact = NormalDistortion(Gaussian(), b, &furthest);
    EXPECT_NEAR(Gaussian().distortion[b], exact, 1e-4 * exact) << b;
    EXPECT_LT(furthest, 2e-3) << b;
    for (size_t i = 0; i + 1 < Gaussian().table[b].size(); ++i) {
      EXPECT_EQ(Gaussian().boundary[b][i],
                0.5f * (Gaussian().table[b][i] + Gaussian().table[b][i + 1]));
    }
  }
}

// Panter and Dite: at high rate the least distortion is sqrt(3) pi / 2 * 4^-b, approached from
// below.
TEST(LloydMax, DeepTablesAreNearTheHighRateLimit) {
  for (int b = 5; b <= kMaxDepth; ++b) {
    const double limit = std::sqrt(3.0) * M_PI / 2 * std::pow(4.0, -b);
    EXPECT_LT(Gaussian().distortion[b], limit) << b;
    EXPECT_GT(Gaussian().distortion[b], limit * (1 - 2.4 * std::exp2(-b))) << b;
  }
}

TEST(LloydMax, EncodeFindsTheNearestLevel) {
  Draws draws(1);
  for (const LevelTables* tables : {&Gaussian(), &Laplacian()}) {
    for (int b = 1; b <= kMaxDepth; ++b) {
      for (int i = 0; i < 400; ++i) {
        const float value = draws.Uniform(-6, 6);
        float nearest = INFINITY;
        for (const float level : tables->table[b]) {
          nearest = std::min(nearest, std::abs(level - value));
        }
        const uint8_t code = tables->Encode(b, value);
        ASSERT_LT(code, 1 << b);
        EXPECT_NEAR(std::abs(tables->table[b][code] - value), nearest, 1e-6);
      }
    }
  }
}

TEST(LevelTables, ABoundaryBelongsToTheCodeAbove) {
  for (const LevelTables* tables : {&Gaussian(), &Compander()}) {
    for (int b = 1; b <= kMaxDepth; ++b) {
      for (size_t i = 0; i < tables->boundary[b].size(); ++i) {
        const float edge = tables->boundary[b][i];
        EXPECT_EQ(tables->Encode(b, edge), i + 1);
        EXPECT_EQ(tables->Encode(b, std::nextafter(edge, -INFINITY)), i);
      }
      EXPECT_EQ(tables->Encode(b, -INFINITY), 0);
      EXPECT_EQ(tables->Encode(b, INFINITY), (1 << b) - 1);
    }
  }
}

TEST(Compander, LevelsAndCodesFollowTheFormula) {
  const double scale = 3 / std::sqrt(2.0);
  const auto cdf = [&](double x) {
    return x < 0 ? 0.5 * std::exp(x / scale) : 1 - 0.5 * std::exp(-x / scale);
  };
  ExpectWellFormed(Compander());
  Draws draws(2);
  for (int b = 1; b <= kMaxDepth; ++b) {
    const int n = 1 << b;
    for (int code = 0; code < n; ++code) {
      EXPECT_NEAR(cdf(Compander().table[b][code]), (code + 0.5) / n, 1e-6);
    }
    for (int i = 0; i < 1000; ++i) {
      const float value = draws.Uniform(-8, 8);
      const double position = n * cdf(value);
      if (std::abs(position - std::round(position)) < 1e-4) continue;
      EXPECT_EQ(Compander().Encode(b, value), static_cast<int>(std::floor(position)));
    }
  }
}

TEST(Compander, DistortionIsThatOfTheGaussian) {
  for (int b = 1; b <= kMaxDepth; ++b) {
    double furthest;
    const double exact = NormalDistortion(Compander(), b, &furthest);
    EXPECT_NEAR(Compander().distortion[b], exact, 1e-4 * exact) << b;
    EXPECT_GE(exact, Gaussian().distortion[b] * (1 - 1e-3)) << b;
  }
}

}  // namespace
}  // namespace cvxq
