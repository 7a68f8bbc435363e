#include "formats/weight_type.h"

namespace cvxq {

std::vector<float> Decode(const GridMatrix& m) {
  const std::span<const float> levels = m.type->levels();
  const int64_t sub = m.type->sub(), subs = m.columns / sub;
  std::vector<float> w(m.rows * m.columns);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.columns; ++c) {
      const int64_t grid = r * subs + c / sub;
      const float value = m.step[grid] * levels[m.codes[r * m.columns + c]];
      w[r * m.columns + c] = m.offset.empty() ? value : value + m.offset[grid];
    }
  }
  return w;
}

}  // namespace cvxq
