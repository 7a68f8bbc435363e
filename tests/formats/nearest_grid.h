// Codes nearest to the values, scales by the type's own search: enough to fill files.
#ifndef CVXQ_TESTS_FORMATS_NEAREST_GRID_H_
#define CVXQ_TESTS_FORMATS_NEAREST_GRID_H_

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "formats/export_format.h"
#include "formats/weight_type.h"

namespace cvxq {

// w [rows, columns] in a type whose blocks the columns fill, as it goes into a file.
inline ExportedMatrix NearestMatrix(const WeightType& type, const std::vector<float>& w,
                                    int64_t rows, int64_t columns) {
  if (type.dense()) return {.grid = {}, .values = w};
  const int64_t blocks = columns / type.block(), subs = columns / type.sub();
  GridMatrix grid{.type = &type, .rows = rows, .columns = columns};
  float largest = 0;
  for (const float value : w) largest = std::max(largest, std::abs(value));
  grid.matrix_scale = type.MatrixScale(largest);
  grid.fields.resize(rows * blocks * type.field_bytes());
  grid.step.resize(rows * subs);
  if (type.has_offset()) grid.offset.resize(rows * subs);
  grid.codes.resize(rows * columns);
  const std::vector<float> weight(columns, 1.0f);
  const std::span<const float> levels = type.levels();
  for (int64_t r = 0; r < rows; ++r) {
    float* offset = type.has_offset() ? &grid.offset[r * subs] : nullptr;
    type.Fit(&w[r * columns], weight.data(), blocks, grid.matrix_scale,
             &grid.fields[r * blocks * type.field_bytes()], &grid.step[r * subs], offset);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t sub = c / type.sub();
      const float x = w[r * columns + c] - (offset != nullptr ? offset[sub] : 0.0f);
      const float step = grid.step[r * subs + sub], target = step == 0 ? 0 : x / step;
      auto above = std::lower_bound(levels.begin(), levels.end(), target) - levels.begin();
      above = std::clamp<int64_t>(above, 1, std::ssize(levels) - 1);
      const bool below = target - levels[above - 1] < levels[above] - target;
      grid.codes[r * columns + c] = static_cast<uint8_t>(below ? above - 1 : above);
    }
  }
  return {.grid = std::move(grid), .values = {}};
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_FORMATS_NEAREST_GRID_H_
