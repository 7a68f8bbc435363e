// Integers as the codec `entropy` makes them, and the plain way from them to a matrix.
#ifndef CVXQ_TESTS_QUANT_SCALED_TESTING_H_
#define CVXQ_TESTS_QUANT_SCALED_TESTING_H_

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kernels/scaled_matrix.h"
#include "quant/entropy_tables.h"
#include "quant/scale_grid.h"
#include "quant/scaled_codes.h"
#include "quant/trellis.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {

// Rounded normal numbers of about this spread, other in each row and column; classes assigned. The
// trellis starts anew after trellis_rows; if that is all of them: never.
inline ScaledCodes RandomCodes(int64_t rows, int64_t columns, int64_t trellis_rows, float spread,
                               uint64_t key, int scale_steps = 4) {
  Draws draws(key);
  ScaledCodes codes{.rows = rows,
                    .columns = columns,
                    .trellis_rows = trellis_rows < rows ? trellis_rows : 0,
                    .scale_steps = scale_steps,
                    .gain = 0.75f};
  std::vector<float> column_spread(columns);
  for (float& s : column_spread) s = std::exp2(0.5f * draws.Normal());
  for (int64_t r = 0; r < rows; ++r) {
    const float row_spread = spread * std::exp2(0.5f * draws.Normal());
    for (int64_t c = 0; c < columns; ++c) {
      const float k = row_spread * column_spread[c] * draws.Normal();
      codes.integers.push_back(static_cast<int16_t>(std::lround(k)));
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    codes.row_scale.push_back(static_cast<int16_t>(std::lround(2 * draws.Normal())));
  }
  for (int64_t c = 0; c < columns; ++c) {
    codes.column_scale.push_back(static_cast<int16_t>(std::lround(3 * draws.Normal() - 9)));
  }
  AssignClasses(codes);
  return codes;
}

inline EntropyTables TablesOf(const ScaledCodes& codes) {
  SymbolCounts counts;
  counts.Add(codes);
  return EntropyTables::Train(counts);
}

inline ScaledMatrix MatrixOf(const ScaledCodes& codes) {
  ScaledMatrix matrix{.rows = codes.rows, .columns = codes.columns};
  matrix.codes.resize(codes.rows * codes.columns);
  std::vector<int> state(codes.columns);
  for (int64_t r = 0; r < codes.rows; ++r) {
    if (codes.trellis_rows > 0 && r % codes.trellis_rows == 0) state.assign(codes.columns, 0);
    for (int64_t c = 0; c < codes.columns; ++c) {
      const int k = codes.integers[r * codes.columns + c], code = kTrellis.Code(state[c], k);
      state[c] = kTrellis.Next(state[c], k);
      if (std::abs(code) <= 127) {
        matrix.codes[r * codes.columns + c] = static_cast<int8_t>(code);
      } else {
        matrix.outliers.push_back({static_cast<int32_t>(r), static_cast<int32_t>(c), code});
      }
    }
  }
  for (const int index : codes.row_scale) {
    matrix.row_scale.push_back(codes.gain * ScaleFromIndex(index, codes.scale_steps));
  }
  for (const int index : codes.column_scale) {
    matrix.column_scale.push_back(ScaleFromIndex(index, codes.scale_steps));
  }
  return matrix;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_QUANT_SCALED_TESTING_H_
