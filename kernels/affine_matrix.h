// The affine form of one linear's matrix W [M, N], made by the codecs `rtn`, `gptq`, `awq` and
// `owq`: integers of one width, with a scale and a zero point for each row and run of `group`
// columns. It is what most engines load.
//   w[r, c] = (code[r, c] - zero[r, g]) * scale[r, g] / column_scale[c],   g = c / group
// in float (subtract exactly, multiply, round, divide, round); no division without column scales.
// Kept columns have no codes: they are stored as halves.
#ifndef CVXQ_KERNELS_AFFINE_MATRIX_H_
#define CVXQ_KERNELS_AFFINE_MATRIX_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace cvxq {

struct AffineMatrix {
  int64_t rows = 0, columns = 0;      // M, N
  int bits = 0;                       // 2..8
  int64_t group = 0;                  // columns that share a scale; the last group may have fewer
  std::vector<uint8_t> codes;         // [M, N], below 2^bits; 0 in kept columns
  std::vector<float> scale;           // [M, groups], representable in F16, finite, not negative
  std::vector<uint8_t> zero;          // [M, groups], below 2^bits
  std::vector<float> column_scale;    // [N] (awq), representable in F16, positive; or empty
  std::vector<int32_t> kept_columns;  // ascending (owq)
  std::vector<float> kept;            // [M, kept columns], representable in F16

  int64_t group_count() const { return (columns + group - 1) / group; }
  // Checks every invariant above; kDataLoss with one line that names what is wrong.
  Status Validate() const;
};

// The plain decoder: w[M, N].
std::vector<float> Decode(const AffineMatrix& matrix);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_AFFINE_MATRIX_H_
