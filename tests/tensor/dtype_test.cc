// Small floats against the definition of their formats, over all of their values.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace cvxq {
namespace {

// A binary format by its definition: sign, exponent field e with a bias, fraction field of f bits.
struct Format {
  int fraction_bits, bias, largest_exponent;
  float (*to_float)(uint16_t);
  uint16_t (*from_float)(float);

  uint16_t infinity() const { return static_cast<uint16_t>(largest_exponent << fraction_bits); }
  double Value(uint16_t bits) const {
    const int e = (bits & 0x7fff) >> fraction_bits;
    const double f = std::ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits);
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (e == largest_exponent) return f == 0 ? sign * HUGE_VAL : std::nan("");
    return sign * (e == 0 ? std::ldexp(f, 1 - bias) : std::ldexp(1 + f, e - bias));
  }
};

constexpr Format kF16 = {10, 15, 31, F16ToFloat, FloatToF16};
constexpr Format kBF16 = {7, 127, 255, BF16ToFloat, FloatToBF16};

class SmallFloat : public testing::TestWithParam<Format> {};

TEST_P(SmallFloat, EveryValueIsExactAndComesBack) {
  const Format& format = GetParam();
  for (int i = 0; i <= 0xffff; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    const float value = format.to_float(bits);
    const double expected = format.Value(bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      const uint16_t back = format.from_float(value);
      ASSERT_TRUE(std::isnan(format.Value(back))) << bits;
      ASSERT_EQ(back & 0x8000, bits & 0x8000);
      ASSERT_NE(back & 1 << (format.fraction_bits - 1), 0) << "a signalling NaN from " << bits;
      continue;
    }
    ASSERT_EQ(value, expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(format.from_float(value), bits);
  }
}

// Between each two neighbours: the middle goes to the even one, all else to the nearer one.
TEST_P(SmallFloat, RoundsToNearestTiesToEven) {
  const Format& format = GetParam();
  for (uint16_t low = 0; low + 1 < format.infinity(); ++low) {
    const uint16_t high = low + 1;
    const double middle = (format.Value(low) + format.Value(high)) / 2;
    const float tie = static_cast<float>(middle);
    ASSERT_EQ(tie, middle);
    ASSERT_EQ(format.from_float(tie), low % 2 == 0 ? low : high) << low;
    ASSERT_EQ(format.from_float(std::nextafter(tie, 0.0f)), low) << low;
    ASSERT_EQ(format.from_float(std::nextafter(tie, HUGE_VALF)), high) << low;
    ASSERT_EQ(format.from_float(-tie), 0x8000 | (low % 2 == 0 ? low : high)) << low;
  }
}

TEST_P(SmallFloat, OverflowsToInfinityHalfAStepAboveTheLargest) {
  const Format& format = GetParam();
  const uint16_t largest = format.infinity() - 1;
  const double step = format.Value(largest) - format.Value(largest - 1);
  const float limit = static_cast<float>(format.Value(largest) + step / 2);
  EXPECT_EQ(format.from_float(std::nextafter(limit, 0.0f)), largest);
  EXPECT_EQ(format.from_float(limit), format.infinity());
  EXPECT_EQ(format.from_float(std::numeric_limits<float>::max()), format.infinity());
  EXPECT_EQ(format.from_float(HUGE_VALF), format.infinity());
  EXPECT_EQ(format.from_float(-HUGE_VALF), 0x8000 | format.infinity());
}

TEST_P(SmallFloat, NaNsStayNaNs) {
  const Format& format = GetParam();
  // A NaN all of whose upper fraction bits are zero must not turn into Inf.
  for (const uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(format.Value(format.from_float(std::bit_cast<float>(bits))))) << bits;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, SmallFloat, testing::Values(kF16, kBF16),
                         [](const auto& info) { return info.param.bias == 15 ? "F16" : "BF16"; });

TEST(DType, NamesAndSizes) {
  const std::vector<std::tuple<DType, std::string_view, int64_t>> all = {
      {DType::kF32, "F32", 4}, {DType::kF16, "F16", 2},   {DType::kBF16, "BF16", 2},
      {DType::kI8, "I8", 1},   {DType::kU8, "U8", 1},     {DType::kI32, "I32", 4},
      {DType::kI64, "I64", 8}, {DType::kU16, "U16", 2},   {DType::kU32, "U32", 4},
      {DType::kF64, "F64", 8}, {DType::kBool, "BOOL", 1}, {DType::kF8E4M3, "F8_E4M3", 1}};
  for (const auto& [dtype, name, bytes] : all) {
    EXPECT_EQ(Name(dtype), name);
    EXPECT_EQ(ByteSize(dtype), bytes);
    ASSERT_TRUE(ParseDType(name).ok());
    EXPECT_EQ(*ParseDType(name), dtype);
  }
  for (const std::string_view name : {"F8_E5M2", "f32", "", "F32 "}) {
    EXPECT_EQ(ParseDType(name).status().code(), absl::StatusCode::kUnimplemented);
  }
}

}  // namespace
}  // namespace cvxq
