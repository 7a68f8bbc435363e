// One decoder block, forward and backward, for every architecture. The backward pass gets the
// block's input, computes the inner values again, and returns the gradient of the input; no
// gradient of a weight is kept: an observer sees input and output gradient of every linear.
#ifndef CVXQ_MODEL_BLOCK_H_
#define CVXQ_MODEL_BLOCK_H_

#include <functional>

#include "kernels/backend.h"
#include "model/arch_spec.h"
#include "model/weights.h"

namespace cvxq {

// A wave: B sequences of T tokens each, the first at position `position` (0 but when generating).
struct Wave {
  int64_t B = 1, T = 0;
  int64_t position = 0;
  int64_t rows() const { return B * T; }
};

// Called for each linear of the block: x [B*T, N] compute, and in the backward pass gy [B*T, M]
// compute (empty in the forward pass). The tensors may be overwritten after the call returns
// (operations enqueued on them by the observer come first). Linears that share an input get the
// same tensor, one after the other.
using LinearObserver = std::function<void(LinearId id, const Tensor& x, const Tensor& gy)>;

// Called in the backward pass for each norm: x [n, d] float that it normed and gy [n, d] float, the
// gradient of its output. `norm` is null for the model's final norm. Else as a LinearObserver.
using NormObserver =
    std::function<void(NormWeight BlockWeights::*norm, const Tensor& x, const Tensor& gy)>;

// Keys (after norm and rope) and values of one block for generation; float
// [B, capacity, kv_heads*head_dim] as `length` rows of one sequence (B = 1).
struct KeyValueCache {
  Tensor keys, values;  // [capacity, kv_heads * head_dim]
};

// Tables of the rotary angles of a layer: float [positions, head_dim/2] each.
struct RopeTables {
  Tensor cosine, sine;
};
RopeTables MakeRopeTables(const RopeSpec& rope, int64_t head_dim, int64_t positions,
                          Backend& backend);

// What a block call needs besides data. All references outlive the call.
struct BlockContext {
  const ArchSpec& spec;
  const LayerSpec& layer;
  const BlockWeights& weights;
  const RopeTables& rope;
  DType compute;
  Backend& backend;
  const NormObserver* norms = nullptr;  // told by BlockBackward
};

// x [B*T, D] float: the block's input, replaced by its output. With a cache (B = 1), new keys and
// values are written at wave.position and attention sees all positions before.
void BlockForward(const BlockContext& context, const Wave& wave, Tensor x,
                  const LinearObserver* observer, KeyValueCache* cache = nullptr);

// x [B*T, D] float: the block's input. g [B*T, D] float: gradient of the output, replaced by the
// gradient of the input. Weights must be dense.
void BlockBackward(const BlockContext& context, const Wave& wave, const Tensor& x, Tensor g,
                   const LinearObserver* observer);

}  // namespace cvxq

#endif  // CVXQ_MODEL_BLOCK_H_
