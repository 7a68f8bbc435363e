// The bytes of a matrix in a GGUF file.
#ifndef CVXQ_FORMATS_GGUF_MATRIX_H_
#define CVXQ_FORMATS_GGUF_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "formats/export_format.h"
#include "formats/ggml_types.h"

namespace cvxq {

// Whether matrices of this type have one scale more, in a tensor of their own (F32 [1], "scale" in
// place of "weight").
bool HasMatrixScale(const GgmlType& type);

// Row r of the result is row order[r] of the matrix [M, N] (order [M]; empty: the same). A matrix
// of another type or size than said is kInternal; a value beyond the range of F16 is
// kInvalidArgument.
StatusOr<std::vector<std::byte>> PackGgufMatrix(const GgmlType& type, int64_t rows, int64_t columns,
                                                const ExportedMatrix& matrix,
                                                std::span<const int64_t> order);

// The values [M, N] of a grid type's bytes, as many as these rows take, in rows of the matrix: the
// inverse of the above.
std::vector<float> DecodeGgufMatrix(const GgmlType& type, int64_t rows, int64_t columns,
                                    std::span<const std::byte> bytes, float matrix_scale,
                                    std::span<const int64_t> order);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_MATRIX_H_
