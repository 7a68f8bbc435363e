// Scaled matrices on the CPU: products straight from the codes, and decoding.
#ifndef CVXQ_KERNELS_CPU_SCALED_WEIGHT_H_
#define CVXQ_KERNELS_CPU_SCALED_WEIGHT_H_

#include <cstdint>
#include <memory>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/scaled_rows.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/scaled_matrix.h"

namespace cvxq {

// The codes are read where they are: one byte a weight in memory, no copy.
struct CpuScaledWeight : PackedWeight {
  // The machine must have `level`. `compute` (F32 or BF16) is what products of many rows round to.
  CpuScaledWeight(std::shared_ptr<const ScaledMatrix> matrix, DType compute, VectorLevel level);

  std::shared_ptr<const ScaledMatrix> matrix;
  DType compute;
  const ScaledKernels* kernels;
};

// y[n,M] = x[n,N] W^T + bias (nullptr: none) in float, straight from the codes; meant for n <= 8.
//   y[t, r] = row_scale[r] * sum over c of code[r, c] * (column_scale[c] * x[t, c])
// A row of y has the same bits in any batch and with any number of threads.
void ScaledProduct(const CpuScaledWeight& weight, const float* x, int64_t n, const float* bias,
                   float* y, ThreadPool& pool);

// Decodes rows [begin, end) to w[end - begin, N]; exact to the bit (scaled_matrix.h), in BF16
// rounded to nearest even from the exact float.
void UnpackToFloat(const CpuScaledWeight& weight, int64_t begin, int64_t end, float* w,
                   ThreadPool& pool);
void UnpackToBF16(const CpuScaledWeight& weight, int64_t begin, int64_t end, uint16_t* w,
                  ThreadPool& pool);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_SCALED_WEIGHT_H_
