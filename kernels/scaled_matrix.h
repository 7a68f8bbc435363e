// The scaled form of one linear's matrix W [M, N], made by the codec `entropy`: small integers on a
// grid whose step is a product of one factor for the row and one for the column,
//   w[r, c] = (code[r, c] * row_scale[r]) * column_scale[c]        (float; multiply, round, twice)
// One byte a weight in memory; on disk the integers are entropy-coded (quant/scaled_format.h).
#ifndef CVXQ_KERNELS_SCALED_MATRIX_H_
#define CVXQ_KERNELS_SCALED_MATRIX_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace cvxq {

// A code that does not fit a byte. Rare: a few in a million.
struct ScaledOutlier {
  int32_t row = 0, column = 0, code = 0;
};

struct ScaledMatrix {
  int64_t rows = 0, columns = 0;        // M, N
  std::vector<int8_t> codes;            // [M, N]; 0 where there is an outlier
  std::vector<float> row_scale;         // [M], positive and finite
  std::vector<float> column_scale;      // [N], positive and finite
  std::vector<ScaledOutlier> outliers;  // ascending by row, then column; no two at one place

  // Checks every invariant above; kDataLoss with one line that names what is wrong.
  Status Validate() const;
};

// The plain decoder, the specification of all others: w[M, N].
std::vector<float> Decode(const ScaledMatrix& matrix);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_SCALED_MATRIX_H_
