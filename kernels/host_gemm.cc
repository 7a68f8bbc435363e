#include "kernels/host_gemm.h"

#include <dnnl.h>
#include <omp.h>

#include <cstdlib>

namespace cvxq {

void HostGemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
              const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
              int64_t ldc) {
  if (m == 0 || n == 0 || k == 0) return;
  // oneDNN takes its number of threads from OpenMP, whose setting is each thread's own.
  thread_local const bool one_thread = (omp_set_num_threads(1), true);
  (void)one_thread;
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k,
                                          alpha, a, lda, b, ldb, beta, c, ldc);
  if (status != dnnl_success) std::abort();  // shapes are ours: a bug
}

}  // namespace cvxq
