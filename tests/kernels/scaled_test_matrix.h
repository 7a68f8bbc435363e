// Random scaled matrices for tests.
#ifndef CVXQ_TESTS_KERNELS_SCALED_TEST_MATRIX_H_
#define CVXQ_TESTS_KERNELS_SCALED_TEST_MATRIX_H_

#include <cstdint>

#include "base/random.h"
#include "kernels/scaled_matrix.h"

namespace cvxq {

// A valid matrix with random codes and scales; one weight in `outlier_every` (0: none) is an
// outlier, the first and last weights among them.
inline ScaledMatrix RandomScaledMatrix(int64_t rows, int64_t columns, int64_t outlier_every,
                                       uint64_t key) {
  uint64_t counter = 0;
  const auto uniform = [&](float low, float high) {
    return low + (high - low) * RandomUniform(key, counter++);
  };
  ScaledMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  for (int64_t r = 0; r < rows; ++r) matrix.row_scale.push_back(uniform(0.01f, 0.03f));
  for (int64_t c = 0; c < columns; ++c) matrix.column_scale.push_back(uniform(0.3f, 1.7f));
  const int64_t count = rows * columns;
  for (int64_t i = 0; i < count; ++i) {
    const bool at_end = i == 0 || i == count - 1;
    const uint64_t bits = RandomBits(key, counter++);
    if (outlier_every > 0 && (at_end || bits % outlier_every == 0)) {
      const auto size = static_cast<int32_t>(128 + (bits >> 32) % 1000);
      matrix.outliers.push_back({static_cast<int32_t>(i / columns),
                                 static_cast<int32_t>(i % columns), bits >> 63 ? -size : size});
      matrix.codes.push_back(0);
    } else {
      matrix.codes.push_back(static_cast<int8_t>(bits >> 56));
    }
  }
  return matrix;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_KERNELS_SCALED_TEST_MATRIX_H_
