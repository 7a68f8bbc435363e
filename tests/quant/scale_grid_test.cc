#include "quant/scale_grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace cvxq {
namespace {

TEST(ScaleGrid, ScalesAreRoundedPowers) {
  for (int k = -2000; k <= 1900; ++k) {
    const long double exact = std::exp2(static_cast<long double>(k) / 16);
    EXPECT_EQ(ScaleFromIndex(k, 16), static_cast<float>(exact)) << k;
  }
}

TEST(ScaleGrid, CoarserGridsAreEverySecondScale) {
  for (const int steps : {1, 2, 4, 8}) {
    const int ratio = 16 / steps;
    for (int k = kMinScaleIndex / ratio; k <= kMaxScaleIndex / ratio; ++k) {
      EXPECT_EQ(ScaleFromIndex(k, steps), ScaleFromIndex(k * ratio, 16)) << k << " of " << steps;
    }
  }
}

TEST(ScaleGrid, IndicesInvertAtEveryStep) {
  for (const int steps : {1, 2, 4, 8, 16}) {
    const int ratio = 16 / steps;
    for (int k = kMinScaleIndex / ratio; k <= kMaxScaleIndex / ratio; ++k) {
      ASSERT_EQ(ScaleToIndex(ScaleFromIndex(k, steps), steps), k) << "of " << steps;
    }
  }
}

TEST(ScaleGrid, NearestInTheLogarithmAndClampedAtTheEnds) {
  EXPECT_EQ(ScaleToIndex(1.0f, 4), 0);
  EXPECT_EQ(ScaleToIndex(1.09f, 4), 0);  // 2^(1/8) is 1.0905
  EXPECT_EQ(ScaleToIndex(1.091f, 4), 1);
  EXPECT_EQ(ScaleToIndex(0.9171f, 4), 0);
  EXPECT_EQ(ScaleToIndex(0.9169f, 4), -1);
  for (const int steps : {1, 2, 4, 8, 16}) {
    const int ratio = 16 / steps;
    EXPECT_EQ(ScaleToIndex(std::numeric_limits<float>::max(), steps), kMaxScaleIndex / ratio);
    EXPECT_EQ(ScaleToIndex(std::numeric_limits<float>::denorm_min(), steps),
              kMinScaleIndex / ratio);
    EXPECT_TRUE(std::isnormal(ScaleFromIndex(kMinScaleIndex / ratio, steps)));
    // The largest mean and a level of 100 deviations stay finite.
    EXPECT_TRUE(std::isfinite(100 * ScaleFromIndex(kMaxScaleIndex / ratio, steps)));
  }
}

TEST(ScaleGrid, MeansInvertAtEveryScale) {
  for (int k = kMinScaleIndex; k <= kMaxScaleIndex; k += 13) {
    const float scale = ScaleFromIndex(k, 16);
    for (int m = -kMaxMeanIndex; m <= kMaxMeanIndex; ++m) {
      ASSERT_EQ(MeanToIndex(MeanFromIndex(m, scale), scale), m) << "scale index " << k;
    }
  }
}

TEST(ScaleGrid, MeansAreNearestAndClamped) {
  EXPECT_EQ(MeanToIndex(0.51f / 32, 1), 1);
  EXPECT_EQ(MeanToIndex(0.49f / 32, 1), 0);
  EXPECT_EQ(MeanToIndex(-7.4f / 32 * 8, 8), -7);
  EXPECT_EQ(MeanToIndex(100, 1), kMaxMeanIndex);
  EXPECT_EQ(MeanToIndex(-1e30f, 1e-30f), -kMaxMeanIndex);
}

}  // namespace
}  // namespace cvxq
