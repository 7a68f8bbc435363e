// The small floats that block formats are made of, bit by bit (OCP Microscaling Formats v1.0):
// E2M1 (FP4) weights, E4M3 (FP8) weights and scales, E8M0 scales.
#ifndef CVXQ_FORMATS_FLOAT_CODES_H_
#define CVXQ_FORMATS_FLOAT_CODES_H_

#include <array>
#include <bit>
#include <cstdint>
#include <span>

namespace cvxq {

// E2M1: bit 3 is the sign, the rest an index of 0, 0.5, 1, 1.5, 2, 3, 4, 6. A grid's codes are
// indices of the 15 values in ascending order.
inline constexpr int kE2M1Codes = 15;
inline constexpr std::array<float, kE2M1Codes> kE2M1Levels = {-6,   -4, -3,   -2, -1.5, -1, -0.5, 0,
                                                              0.5f, 1,  1.5f, 2,  3,    4,  6};
// The four bits of code k < kE2M1Codes, and back; -0 is 0.
constexpr uint8_t E2M1Bits(int code) {
  return static_cast<uint8_t>(code < 7 ? 15 - code : code - 7);
}
constexpr int E2M1Code(uint8_t bits) { return (bits & 8) != 0 ? 7 - (bits & 7) : 7 + (bits & 7); }

// E4M3: s eeee mmm, bias 7, without infinities; 0x7f and 0xff are NaN, the largest is 448.
inline constexpr float kE4M3Most = 448;
float E4M3ToFloat(uint8_t bits);
// Rounds to nearest, ties to even; what is larger than 448 becomes 448. NaN stays NaN.
uint8_t FloatToE4M3(float value);

// A grid's codes for E4M3 are indices of its 253 values in ascending order.
inline constexpr int kE4M3Codes = 253;
std::span<const float> E4M3Levels();
constexpr uint8_t E4M3Bits(int code) {
  return static_cast<uint8_t>(code < 126 ? 0x80 | (126 - code) : code - 126);
}
constexpr int E4M3Code(uint8_t bits) {  // not of a NaN
  return (bits & 0x80) != 0 ? 126 - (bits & 0x7f) : 126 + bits;
}

// E8M0: 2^(bits - 127); 255 is NaN.
inline float E8M0ToFloat(uint8_t bits) {
  if (bits == 0) return 0x1p-127f;
  return std::bit_cast<float>(bits == 255 ? 0x7fc00000u : static_cast<uint32_t>(bits) << 23);
}
// The bits of the largest power of two that is not above a value > 0, within [2^-127, 2^127].
inline uint8_t FloatToE8M0(float value) {
  const uint32_t exponent = std::bit_cast<uint32_t>(value) >> 23;
  return static_cast<uint8_t>(exponent < 254 ? exponent : 254);
}

}  // namespace cvxq

#endif  // CVXQ_FORMATS_FLOAT_CODES_H_
