// The inner loops over scaled matrices (kernels/scaled_matrix.h), one set for each instruction set.
// Plain C in spirit: files compiled for a newer CPU include only this, so that none of their code
// reaches the common path.
#ifndef CVXQ_KERNELS_CPU_SCALED_ROWS_H_
#define CVXQ_KERNELS_CPU_SCALED_ROWS_H_

#include <stdint.h>

namespace cvxq {

inline constexpr int kMaxScaledBatch = 8;

// Arrays need no alignment and are never read beyond their ends.
struct ScaledKernels {
  // sums[r * batch + t] = sum over columns c of codes[r * columns + c] * x[t * x_stride + c], for
  // r in [0, rows) and t in [0, batch), batch <= kMaxScaledBatch. In float, in an order that
  // `columns` alone decides: the result of an r and t does not depend on the others. Faster where
  // each vector of x begins at a cache line.
  void (*multiply)(const int8_t* codes, int64_t rows, int64_t columns, const float* x,
                   int64_t x_stride, int batch, float* sums);

  // w[c] = (codes[c] * row_scale) * column_scale[c]; two roundings.
  void (*write_float)(const int8_t* codes, int64_t columns, float row_scale,
                      const float* column_scale, float* w);
  // The same, rounded to BF16, to nearest even. Inf stays; there are no NaNs.
  void (*write_bf16)(const int8_t* codes, int64_t columns, float row_scale,
                     const float* column_scale, uint16_t* w);
};

extern const ScaledKernels kScaledKernelsBaseline;
extern const ScaledKernels kScaledKernelsAvx2;
extern const ScaledKernels kScaledKernelsAvx512;

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_SCALED_ROWS_H_
