// The grids of the affine codecs: scale and zero point of one group of weights.
#ifndef CVXQ_QUANT_AFFINE_H_
#define CVXQ_QUANT_AFFINE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/affine_matrix.h"

namespace cvxq {

// Code k stands for (k - zero) * scale. A scale of 0 (a group of zeros) holds nothing but 0.
struct AffineGrid {
  float scale = 0;  // representable in F16
  int zero = 0;     // of the width of a code

  int Code(float value, int bits) const {
    if (scale == 0) return zero;
    // Beyond these ends all codes are alike; within them, adding 1.5 * 2^23 leaves no room for a
    // fraction, which rounds to the nearest, ties to even, without a call.
    const float steps = std::clamp(value / scale, -256.0f, 256.0f);
    const float rounded = (steps + 0x1.8p23f) - 0x1.8p23f;
    return std::clamp(static_cast<int>(rounded) + zero, 0, (1 << bits) - 1);
  }
  float Value(int code) const { return static_cast<float>(code - zero) * scale; }
};

struct ValueRange {
  float low = 0, high = 0;
};

// From the least to the largest of values[n] and 0.
ValueRange RangeOf(const float* values, int64_t n);

// The grid with these ends, as other tools have it: the range is widened to hold 0, the scale is
// its part of 2^bits - 1 steps, rounded to a half, and the zero point is rounded so that 0 is
// exact.
AffineGrid GridOfRange(ValueRange range, int bits);

// The share of the range of `group` weights that a grid for error feedback should span: the few
// weights beyond it cost less than finer steps bring. Measured on small models for 2 to 4 bits and
// groups of 32 to 256; 1 for wide codes and small groups.
float TrimmedShare(int bits, int64_t group);

// A matrix of this shape with all codes, scales and zero points 0.
AffineMatrix StartAffineMatrix(int64_t rows, int64_t columns, int bits, int64_t group);

// The grid of group `index` (row * groups + g).
inline AffineGrid GridAt(const AffineMatrix& m, int64_t index) {
  return {m.scale[index], m.zero[index]};
}
inline void SetGrid(AffineMatrix& m, int64_t index, AffineGrid grid) {
  m.scale[index] = grid.scale;
  m.zero[index] = static_cast<uint8_t>(grid.zero);
}

// Sets all grids from w [M, N]: the range of each group's weights, times `share`, without the
// columns where skip[c] (empty: none) is not 0.
void FitGrids(const float* w, float share, const std::vector<uint8_t>& skip, ThreadPool& pool,
              AffineMatrix& m);

// Sets all codes to those nearest to w [M, N] on the grids of m.
void RoundToNearest(const float* w, ThreadPool& pool, AffineMatrix& m);

}  // namespace cvxq

#endif  // CVXQ_QUANT_AFFINE_H_
