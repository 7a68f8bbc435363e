// One matrix product on host memory, single-threaded: for code that is parallel on the outside
// (factorisations, error feedback). Tensors of a backend use Backend instead.
#ifndef CVXQ_KERNELS_HOST_GEMM_H_
#define CVXQ_KERNELS_HOST_GEMM_H_

#include <cstdint>

namespace cvxq {

// C[m,n] = alpha * op(A)[m,k] op(B)[k,n] + beta * C, row-major floats with leading dimensions;
// op transposes where the flag says so. Any thread; the result depends on the shapes and the CPU
// only.
void HostGemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
              const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
              int64_t ldc);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_HOST_GEMM_H_
