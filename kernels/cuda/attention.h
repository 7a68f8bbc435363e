// The kernels of attention, one set for each way to compute it; CudaBackend::Attention chooses.
// Letters and contracts are those of backend.h. A query at key position p sees the keys
// (p - window, p], so tiles of scores that nobody sees are not computed, and no matrix of all
// scores is ever in memory.
#ifndef CVXQ_KERNELS_CUDA_ATTENTION_H_
#define CVXQ_KERNELS_CUDA_ATTENTION_H_

#include "kernels/backend.h"
#include "kernels/cuda/device.h"

namespace cvxq::cuda {

// What kernels know of a call.
struct AttentionShape {
  int B = 0, Tq = 0, Tk = 0;
  int heads = 0, group = 1, head_dim = 0;  // `group` query heads share one of k and v
  int window = 1;                          // Tk where there is none
  float scale = 1, softcap = 0;

  static AttentionShape Of(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k);

  constexpr int kv_heads() const { return heads / group; }
  // Elements from token to token of q and y, of k and v.
  constexpr int64_t width() const { return int64_t{heads} * head_dim; }
  constexpr int64_t kv_width() const { return int64_t{kv_heads()} * head_dim; }
  constexpr bool Sees(int position, int key) const {
    return static_cast<unsigned>(position - key) < static_cast<unsigned>(window);  // and not < 0
  }
};

// In float throughout; any head_dim.
void AttentionFloat(Device& device, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& y);
void AttentionBackwardFloat(Device& device, const AttentionShape& shape, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& gy, const Tensor& gq,
                            const Tensor& gk, const Tensor& gv);

// Products of BF16 on tensor cores with sums in float, after FlashAttention-2 (arXiv 2307.08691);
// where PaddedHeadDim(head_dim) > 0.
void AttentionBF16(Device& device, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                   const Tensor& v, const Tensor& y);
void AttentionBackwardBF16(Device& device, const AttentionShape& shape, const Tensor& q,
                           const Tensor& k, const Tensor& v, const Tensor& gy, const Tensor& gq,
                           const Tensor& gk, const Tensor& gv);

// For few queries, in float: the time is that of reading k and v once, so the keys are spread over
// blocks, and their parts merged in order.
inline constexpr int kDecodeQueries = 16;
void AttentionDecode(Device& device, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                     const Tensor& v, const Tensor& y);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_ATTENTION_H_
