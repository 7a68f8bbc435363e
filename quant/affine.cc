#include "quant/affine.h"

#include "tensor/dtype.h"

namespace cvxq {

ValueRange RangeOf(const float* values, int64_t n) {
  ValueRange range;
  for (int64_t i = 0; i < n; ++i) {
    range.low = std::min(range.low, values[i]);
    range.high = std::max(range.high, values[i]);
  }
  return range;
}

AffineGrid GridOfRange(ValueRange range, int bits) {
  constexpr float kLeastScale = 0x1p-24f, kMostScale = 65504;  // the halves above 0
  const float low = std::min(range.low, 0.0f), high = std::max(range.high, 0.0f);
  AffineGrid grid;
  if (low == high) return grid;
  const float most = static_cast<float>((1 << bits) - 1);
  const float scale = std::clamp((high - low) / most, kLeastScale, kMostScale);
  grid.scale = F16ToFloat(FloatToF16(scale));
  grid.zero = static_cast<int>(std::clamp(std::nearbyint(-low / grid.scale), 0.0f, most));
  return grid;
}

float TrimmedShare(int bits, int64_t group) {
  const double cut = 0.05 * std::log2(static_cast<double>(group)) - 0.15 - 0.065 * (bits - 2);
  return static_cast<float>(1 - std::clamp(cut, 0.0, 0.35));
}

AffineMatrix StartAffineMatrix(int64_t rows, int64_t columns, int bits, int64_t group) {
  AffineMatrix m;
  m.rows = rows;
  m.columns = columns;
  m.bits = bits;
  m.group = group;
  m.codes.resize(rows * columns);
  m.scale.resize(rows * m.group_count());
  m.zero.resize(m.scale.size());
  return m;
}

void FitGrids(const float* w, float share, const std::vector<uint8_t>& skip, ThreadPool& pool,
              AffineMatrix& m) {
  pool.ParallelFor(m.rows, [&](int64_t r) {
    std::vector<float> values;
    for (int64_t g = 0; g < m.group_count(); ++g) {
      values.clear();
      for (int64_t c = g * m.group; c < std::min(m.columns, (g + 1) * m.group); ++c) {
        if (skip.empty() || skip[c] == 0) values.push_back(w[r * m.columns + c]);
      }
      const ValueRange range = RangeOf(values.data(), static_cast<int64_t>(values.size()));
      SetGrid(m, r * m.group_count() + g,
              GridOfRange({share * range.low, share * range.high}, m.bits));
    }
  });
}

void RoundToNearest(const float* w, ThreadPool& pool, AffineMatrix& m) {
  pool.ParallelFor(m.rows, [&](int64_t r) {
    for (int64_t c = 0; c < m.columns; ++c) {
      const AffineGrid grid = GridAt(m, r * m.group_count() + c / m.group);
      const int64_t at = r * m.columns + c;
      m.codes[at] = static_cast<uint8_t>(grid.Code(w[at], m.bits));
    }
  });
}

}  // namespace cvxq
