#include "quant/round_group.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quant/scale_grid.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

const LevelTables& Tables(bool compander) {
  static const LevelTables lloyd = LloydMaxTables(2), companded = CompanderTables();
  return compander ? companded : lloyd;
}

// The plain loop. Sums of sixteen interleaved parts, as the contract's "fixed order".
double PlainRound(const LevelTables& tables, int depth, float scale, float mean,
                  const std::vector<float>& values, std::vector<uint8_t>& codes) {
  const float inverse = 1 / scale;
  float part[16] = {};
  for (size_t i = 0; i < values.size(); ++i) {
    codes[i] = tables.Encode(depth, (values[i] - mean) * inverse);
    const float product = scale * tables.table[depth][codes[i]];
    const float error = ((product + mean) - values[i]) * inverse;
    part[i % 16] += error * error;
  }
  float sum = 0;
  for (const float p : part) sum += p;
  return static_cast<double>(sum) * scale * scale;
}

TEST(RoundGroup, EqualsThePlainLoopToTheBit) {
  Draws draws(1);
  for (const bool compander : {false, true}) {
    for (int depth = 1; depth <= kMaxDepth; ++depth) {
      for (const int64_t n : {1, 2, 15, 16, 17, 31, 33, 64, 257}) {
        for (const float deviation : {1.0f, 1e-3f, 1e-30f, 1e30f}) {
          std::vector<float> values = draws.Normals(n, deviation);
          const float scale = ScaleFromIndex(ScaleToIndex(deviation, 4), 4);
          const float mean = n % 2 == 0 ? 0.0f : MeanFromIndex(11, scale);
          // Past the outermost levels, and on a boundary.
          values[0] = 40 * deviation;
          if (n > 2) values[2] = scale * Tables(compander).boundary[depth][0];
          std::vector<uint8_t> expected(n), codes(n + 1, 99);
          const double plain = PlainRound(Tables(compander), depth, scale, mean, values, expected);
          const double error =
              RoundGroup(Tables(compander), depth, scale, mean, values.data(), n, codes.data());
          EXPECT_EQ(codes[n], 99);  // nothing is written past the end
          codes.pop_back();
          EXPECT_EQ(codes, expected) << "depth " << depth << " n " << n;
          EXPECT_EQ(error, plain);
        }
      }
    }
  }
}

TEST(RoundGroup, ErrorIsThatOfTheDecodedValues) {
  Draws draws(2);
  for (const float deviation : {1.0f, 1e-30f, 1e30f}) {
    const std::vector<float> values = draws.Normals(100, deviation);
    std::vector<uint8_t> codes(100);
    const float scale = ScaleFromIndex(ScaleToIndex(deviation, 8), 8), mean = 0.25f * scale;
    const double error =
        RoundGroup(Tables(false), 3, scale, mean, values.data(), 100, codes.data());
    double plain = 0;
    for (int i = 0; i < 100; ++i) {
      const double decoded = scale * Tables(false).table[3][codes[i]] + mean;
      plain += (decoded - values[i]) * (decoded - values[i]);
    }
    EXPECT_NEAR(error, plain, 1e-4 * plain);
  }
}

TEST(FitScale, IsTheBestOfTheScalesWithinReach) {
  Draws draws(3);
  for (const int steps : {1, 4, 16}) {
    for (int depth = 1; depth <= kMaxDepth; ++depth) {
      for (const int64_t n : {1, 7, 64, 131}) {
        const std::vector<float> values = draws.Normals(n, 0.03f);
        const int reach = static_cast<int>(draws.Below(5)), centre = ScaleToIndex(0.025f, steps);
        int best = 0;
        double least = std::numeric_limits<double>::infinity();
        std::vector<uint8_t> codes(n), expected(n), trial(n);
        for (int index = centre - reach; index <= centre + reach; ++index) {
          const double error =
              PlainRound(Tables(false), depth, ScaleFromIndex(index, steps), 0, values, trial);
          if (error < least) {
            least = error;
            best = index;
            expected = trial;
          }
        }
        EXPECT_EQ(
            FitScale(Tables(false), depth, steps, 0.025f, reach, values.data(), n, codes.data()),
            best);
        EXPECT_EQ(codes, expected);
      }
    }
  }
}

// The choice is that of the same weights at any size: nothing over- or underflows.
TEST(FitScale, DoesNotDependOnTheSizeOfTheWeights) {
  Draws draws(4);
  for (int trial = 0; trial < 20; ++trial) {
    const std::vector<float> values = draws.Normals(50);
    std::vector<uint8_t> expected(50), codes(50);
    const int index = FitScale(Tables(false), 3, 4, 1.0f, 3, values.data(), 50, expected.data());
    for (const int octaves : {-100, -60, 60, 100}) {
      std::vector<float> scaled = values;
      for (float& value : scaled) value = std::ldexp(value, octaves);
      EXPECT_EQ(FitScale(Tables(false), 3, 4, std::ldexp(1.0f, octaves), 3, scaled.data(), 50,
                         codes.data()),
                index + 4 * octaves);
      EXPECT_EQ(codes, expected);
    }
  }
}

TEST(FitScale, StaysOnTheGrid) {
  const std::vector<float> tiny(9, std::numeric_limits<float>::denorm_min());
  const std::vector<float> huge(9, std::numeric_limits<float>::max());
  std::vector<uint8_t> codes(9);
  for (const int steps : {1, 2, 4, 8, 16}) {
    const int ratio = 16 / steps;
    EXPECT_GE(FitScale(Tables(false), 2, steps, 0.0f, 2, tiny.data(), 9, codes.data()),
              kMinScaleIndex / ratio);
    EXPECT_LE(FitScale(Tables(false), 2, steps, huge[0], 2, huge.data(), 9, codes.data()),
              kMaxScaleIndex / ratio);
    EXPECT_EQ(codes[0], 3);
  }
}

}  // namespace
}  // namespace cvxq
