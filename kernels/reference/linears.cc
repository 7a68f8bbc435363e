// Linears, plain and packed.
#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {

using reference::Elements;

void ReferenceBackend::Linear(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) {
  if (failed()) return;
  contract::Linear(x, w, bias, y);
  const int64_t n = x.shape[0], M = w.shape[0], N = w.shape[1];
  const Elements xs(x), ws(w), bs(bias);
  Elements ys(y);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t m = 0; m < M; ++m) {
      double sum = bs.empty() ? 0 : bs[m];
      for (int64_t k = 0; k < N; ++k) sum += xs[i * N + k] * ws[m * N + k];
      ys.Set(i * M + m, sum);
    }
  }
}

void ReferenceBackend::LinearBackward(const Tensor& gy, const Tensor& w, Tensor gx,
                                      bool accumulate) {
  if (failed()) return;
  contract::LinearBackward(gy, w, gx);
  const int64_t n = gy.shape[0], M = w.shape[0], N = w.shape[1];
  const Elements gys(gy), ws(w);
  Elements gxs(gx);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < N; ++k) {
      double sum = accumulate ? gxs[i * N + k] : 0;
      for (int64_t m = 0; m < M; ++m) sum += gys[i * M + m] * ws[m * N + k];
      gxs.Set(i * N + k, sum);
    }
  }
}

}  // namespace cvxq
