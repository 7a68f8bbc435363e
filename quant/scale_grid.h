// Scales and means of groups on coarse grids, so that side information is small and exact.
//
// A scale is 2^(k / steps) for an integer k, rounded to float from a table of constants: the same
// bits on every machine. A mean is a multiple of scale / 32.
#ifndef CVXQ_QUANT_SCALE_GRID_H_
#define CVXQ_QUANT_SCALE_GRID_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace cvxq {

inline constexpr int kMinScaleIndex = -2000, kMaxScaleIndex = 1900;  // at 16 steps: 2^-125 .. 2^118
inline constexpr int kMeanSteps = 32, kMaxMeanIndex = 127;

// 2^(index / steps); steps is 1, 2, 4, 8 or 16, index within the limits above.
inline float ScaleFromIndex(int index, int steps) {
  static constexpr float kSixteenth[16] = {
      0x1p+0f,        0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f,
      0x1.306fe0p+0f, 0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
      0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
      0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
  const int sixteenths = index * (16 / steps);
  const int octave = sixteenths >= 0 ? sixteenths / 16 : -((15 - sixteenths) / 16);
  return std::ldexp(kSixteenth[sixteenths - 16 * octave], octave);
}

// The index whose scale is nearest to `value` (in the logarithm); value > 0.
inline int ScaleToIndex(float value, int steps) {
  const double index = std::round(std::log2(static_cast<double>(value)) * steps);
  const int limit_steps = 16 / steps;
  return static_cast<int>(
      std::clamp<double>(index, kMinScaleIndex / limit_steps, kMaxScaleIndex / limit_steps));
}

inline float MeanFromIndex(int index, float scale) {
  return scale * (static_cast<float>(index) / kMeanSteps);
}
inline int MeanToIndex(float mean, float scale) {
  const double index = std::round(static_cast<double>(mean) / scale * kMeanSteps);
  return static_cast<int>(std::clamp<double>(index, -kMaxMeanIndex, kMaxMeanIndex));
}

}  // namespace cvxq

#endif  // CVXQ_QUANT_SCALE_GRID_H_
