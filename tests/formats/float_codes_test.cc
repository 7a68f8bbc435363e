#include "formats/float_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace cvxq {
namespace {

TEST(FloatCodesTest, E2M1BitsAreASignAndAnIndex) {
  const float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int bits = 0; bits < 16; ++bits) {
    const float value = (bits & 8) != 0 ? -magnitudes[bits & 7] : magnitudes[bits & 7];
    EXPECT_EQ(kE2M1Levels[E2M1Code(static_cast<uint8_t>(bits))], value);
  }
  for (int code = 0; code < kE2M1Codes; ++code) EXPECT_EQ(E2M1Code(E2M1Bits(code)), code);
  EXPECT_TRUE(std::is_sorted(kE2M1Levels.begin(), kE2M1Levels.end()));
}

TEST(FloatCodesTest, E4M3DecodesByItsDefinition) {
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
    const float value = E4M3ToFloat(static_cast<uint8_t>(bits));
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
    EXPECT_EQ(value, bits < 128 ? magnitude : -magnitude) << bits;
    EXPECT_EQ(std::signbit(value), bits >= 128);
    EXPECT_EQ(FloatToE4M3(value), bits);
  }
}

TEST(FloatCodesTest, E4M3RoundsToTheNearestWithTiesToEven) {
  for (int bits = 0; bits < 0x7e; ++bits) {
    const float low = E4M3ToFloat(static_cast<uint8_t>(bits));
    const float high = E4M3ToFloat(static_cast<uint8_t>(bits + 1));
    const float middle = (low + high) / 2;
    const int even = bits % 2 == 0 ? bits : bits + 1;
    EXPECT_EQ(FloatToE4M3(middle), even);
    EXPECT_EQ(FloatToE4M3(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(FloatToE4M3(std::nextafter(middle, 1e9f)), bits + 1);
    EXPECT_EQ(FloatToE4M3(-middle), even | 0x80);
  }
  EXPECT_EQ(FloatToE4M3(449), 0x7e);
  EXPECT_EQ(FloatToE4M3(INFINITY), 0x7e);
  EXPECT_EQ(FloatToE4M3(-INFINITY), 0xfe);
  EXPECT_TRUE(std::isnan(E4M3ToFloat(FloatToE4M3(NAN))));
}

TEST(FloatCodesTest, E4M3LevelsAscendAndCodesAreTheirIndices) {
  const std::span<const float> levels = E4M3Levels();
  ASSERT_EQ(levels.size(), static_cast<size_t>(kE4M3Codes));
  for (int k = 0; k < kE4M3Codes; ++k) {
    EXPECT_EQ(levels[k], E4M3ToFloat(E4M3Bits(k)));
    EXPECT_EQ(E4M3Code(E4M3Bits(k)), k);
    if (k > 0) {
      EXPECT_LT(levels[k - 1], levels[k]);
    }
  }
}

TEST(FloatCodesTest, E8M0IsAPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    const float value = E8M0ToFloat(static_cast<uint8_t>(bits));
    EXPECT_EQ(value, std::ldexp(1.0f, bits - 127));
    EXPECT_EQ(FloatToE8M0(value), bits);
    if (bits > 0) {
      EXPECT_EQ(FloatToE8M0(value * 1.99f), bits);
    }
  }
  EXPECT_TRUE(std::isnan(E8M0ToFloat(255)));
}

}  // namespace
}  // namespace cvxq
