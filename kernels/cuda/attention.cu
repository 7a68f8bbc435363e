// Attention and its backward pass: which kernels do it.
#include <algorithm>

#include "kernels/contract.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/geometry.h"

namespace cvxq::cuda {

AttentionShape AttentionShape::Of(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                  const Tensor& k) {
  constexpr int64_t kMaxTokens = 1 << 29;  // so that sums of positions are ints
  const int64_t Tq = q.shape[0] / B, Tk = k.shape[0] / B;
  Require(B <= kMaxTokens && Tk <= kMaxTokens, "Attention: tokens of a sequence");
  const int64_t window = spec.window > 0 ? std::min(spec.window, Tk) : Tk;
  return {.B = static_cast<int>(B),
          .Tq = static_cast<int>(Tq),
          .Tk = static_cast<int>(Tk),
          .heads = spec.heads,
          .group = spec.heads / spec.kv_heads,
          .head_dim = spec.head_dim,
          .window = static_cast<int>(window),
          .scale = spec.scale,
          .softcap = spec.softcap};
}

void CudaBackend::Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                            const Tensor& v, bool compute_bf16, Tensor y) {
  if (failed()) return;
  contract::Attention(spec, B, q, k, v, y);
  const AttentionShape shape = AttentionShape::Of(spec, B, q, k);
  if (shape.Tq <= kDecodeQueries) {
    AttentionDecode(*device_, shape, q, k, v, y);
  } else if (compute_bf16 && PaddedHeadDim(spec.head_dim) > 0) {
    AttentionBF16(*device_, shape, q, k, v, y);
  } else {
    AttentionFloat(*device_, shape, q, k, v, y);
  }
}

void CudaBackend::AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                    const Tensor& k, const Tensor& v, const Tensor& gy,
                                    bool compute_bf16, Tensor gq, Tensor gk, Tensor gv) {
  if (failed()) return;
  contract::AttentionBackward(spec, B, q, k, v, gy, gq, gk, gv);
  const AttentionShape shape = AttentionShape::Of(spec, B, q, k);
  if (compute_bf16 && PaddedHeadDim(spec.head_dim) > 0) {
    AttentionBackwardBF16(*device_, shape, q, k, v, gy, gq, gk, gv);
  } else {
    AttentionBackwardFloat(*device_, shape, q, k, v, gy, gq, gk, gv);
  }
}

}  // namespace cvxq::cuda
