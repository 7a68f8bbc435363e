// The quantised matrix of a linear, in whichever form its codec makes.
#ifndef CVXQ_KERNELS_LINEAR_CODES_H_
#define CVXQ_KERNELS_LINEAR_CODES_H_

#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/affine_matrix.h"
#include "kernels/packed_matrix.h"
#include "kernels/scaled_matrix.h"

namespace cvxq {

using LinearCodes = std::variant<PackedMatrix, ScaledMatrix, AffineMatrix>;

inline int64_t RowsOf(const LinearCodes& codes) {
  return std::visit([](const auto& matrix) { return matrix.rows; }, codes);
}
inline int64_t ColumnsOf(const LinearCodes& codes) {
  return std::visit([](const auto& matrix) { return matrix.columns; }, codes);
}
// w[M, N], by the plain decoder of the form.
inline std::vector<float> Decode(const LinearCodes& codes) {
  return std::visit([](const auto& matrix) { return Decode(matrix); }, codes);
}

}  // namespace cvxq

#endif  // CVXQ_KERNELS_LINEAR_CODES_H_
