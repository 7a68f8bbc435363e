#include "formats/float_codes.h"

#include <cmath>

namespace cvxq {

float E4M3ToFloat(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t rest = bits & 0x7fu;
  if (rest == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  // Into a float's place with the exponent too small by 120, which an exact multiply repairs.
  const float scaled = std::bit_cast<float>(rest << 20) * 0x1p120f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

uint8_t FloatToE4M3(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7f;
  if (magnitude >= std::bit_cast<uint32_t>(kE4M3Most)) return sign | 0x7e;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6f)) {  // a subnormal: a multiple of 2^-9
    // Adding 2^14 puts the sum's last bit at 2^-9, so the addition itself rounds to even.
    const float sum = std::bit_cast<float>(magnitude) + 0x1p14f;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(sum) & 0xfu);
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120u << 3));
}

std::span<const float> E4M3Levels() {
  static const std::array<float, kE4M3Codes> levels = [] {
    std::array<float, kE4M3Codes> values{};
    for (int k = 0; k < kE4M3Codes; ++k) values[k] = E4M3ToFloat(E4M3Bits(k));
    values[E4M3Code(0)] = 0;
    return values;
  }();
  return levels;
}

}  // namespace cvxq
