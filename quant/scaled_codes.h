// What the codec `entropy` decides about one linear, before it becomes bytes (scaled_format.h), and
// how its integers are sorted into classes of like statistics.
#ifndef CVXQ_QUANT_SCALED_CODES_H_
#define CVXQ_QUANT_SCALED_CODES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace cvxq {

class EntropyTables;  // entropy_tables.h

// Classes are a ladder of spreads, four steps to an octave: 0 is all but all zeros, the last one
// has a mean magnitude of about 200.
inline constexpr int kSymbolClasses = 48;

struct ScaledCodes {
  int64_t rows = 0, columns = 0;  // M, N
  std::vector<int16_t> integers;  // k [M, N], above -32768
  // The trellis (trellis.h) runs down each column, first row first, and starts anew at every row
  // that is a multiple of this, below M; 0: never.
  int64_t trellis_rows = 0;
  int scale_steps = 4;                // of the grids of both scales, to an octave (scale_grid.h)
  std::vector<int16_t> row_scale;     // [M] indices on the grid
  std::vector<int16_t> column_scale;  // [N]
  float gain = 1;                     // scale of row r: gain * ScaleFromIndex(row_scale[r])
  // The statistics of k[r, c] are those of SymbolClass(row_class[r], column_class[c]) and of the
  // grid in force.
  std::vector<int8_t> row_class, column_class;  // [M], [N]

  bool TrellisStarts(int64_t row) const {
    return row == 0 || (trellis_rows > 0 && row % trellis_rows == 0);
  }
};

inline int SymbolClass(int row_class, int column_class) {
  return std::clamp(row_class + column_class, 0, kSymbolClasses - 1);
}

// Sets row_class and column_class from the integers alone: a rank-one fit of the spread, as if each
// integer were a Laplacian number rounded to the nearest.
void AssignClasses(ScaledCodes& codes);

// Moves each row's class, then each column's, by at most three steps, to where its integers and the
// class itself cost least under these tables. Returns whether anything moved. To be called in turn
// with EntropyTables::Train over the model; two or three rounds settle.
bool RefineClasses(ScaledCodes& codes, const EntropyTables& tables);

}  // namespace cvxq

#endif  // CVXQ_QUANT_SCALED_CODES_H_
