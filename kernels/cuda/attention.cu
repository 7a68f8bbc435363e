// Attention and its backward pass.
#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"

namespace cvxq::cuda {

void CudaBackend::Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                            const Tensor& v, bool compute_bf16, Tensor y) {
  if (failed()) return;
  contract::Attention(spec, B, q, k, v, y);
  (void)compute_bf16;
  device_->Fail(absl::UnimplementedError("Attention"));
}

void CudaBackend::AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                    const Tensor& k, const Tensor& v, const Tensor& gy,
                                    bool compute_bf16, Tensor gq, Tensor gk, Tensor gv) {
  if (failed()) return;
  contract::AttentionBackward(spec, B, q, k, v, gy, gq, gk, gv);
  (void)compute_bf16;
  device_->Fail(absl::UnimplementedError("AttentionBackward"));
}

}  // namespace cvxq::cuda
