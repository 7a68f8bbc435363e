// The two halves of a block, attention and MLP, forward and backward, and the linears inside them.
// How they meet the residual stream is block.cc's business.
#ifndef CVXQ_MODEL_LAYERS_H_
#define CVXQ_MODEL_LAYERS_H_

#include "model/block.h"

namespace cvxq {

// x as operand of products: itself where its type fits, else a converted copy.
Tensor ToCompute(const Tensor& x, DType compute, Backend& backend);

// y[n, M] float = W x + b of one linear; x [n, N] compute. Tells the observer of x.
Tensor ApplyLinear(const BlockContext& context, LinearId id, const Tensor& x,
                   const LinearObserver* observer);
// gx[n, N] float = or += W^T gy; gy [n, M] float. Tells the observer of x and gy. Dense only.
void ApplyLinearBackward(const BlockContext& context, LinearId id, const Tensor& x,
                         const Tensor& gy, const LinearObserver* observer, Tensor gx,
                         bool accumulate);

// What the forward pass of attention leaves for the backward pass. n = B*T rows.
struct AttentionValues {
  Tensor input;               // [n, D] compute
  Tensor query_raw, key_raw;  // float, before their norms; empty without norms
  Tensor query, key, value;   // float, as the scores see them
  Tensor mixed;               // [n, heads*head_dim] compute: the input of the output linear
};

// out[n, D] float of input[n, D] compute. With a cache see BlockForward.
Tensor AttentionForward(const BlockContext& context, const Wave& wave, const Tensor& input,
                        const LinearObserver* observer, KeyValueCache* cache,
                        AttentionValues* values);
// Gradient [n, D] float with respect to the input, from g[n, D] float of the output.
Tensor AttentionBackward(const BlockContext& context, const Wave& wave,
                         const AttentionValues& values, const Tensor& g,
                         const LinearObserver* observer);

// The same for the MLP.
struct MlpValues {
  Tensor input;      // [n, D] compute
  Tensor gate, up;   // [n, F] float; gate is empty in a model without gates
  Tensor activated;  // [n, F] compute
};

// With `output` false the last linear is left out and the result is empty: the backward pass needs
// the values only.
Tensor MlpForward(const BlockContext& context, const Tensor& input, const LinearObserver* observer,
                  bool output, MlpValues* values);
Tensor MlpBackward(const BlockContext& context, const MlpValues& values, const Tensor& g,
                   const LinearObserver* observer);

}  // namespace cvxq

#endif  // CVXQ_MODEL_LAYERS_H_
