// Where a model's weights come from: a dense checkpoint or a packed one.
#ifndef CVXQ_MODEL_WEIGHTS_H_
#define CVXQ_MODEL_WEIGHTS_H_

#include <array>
#include <memory>
#include <string>

#include "base/status.h"
#include "kernels/backend.h"
#include "model/arch_spec.h"
#include "tensor/tensor.h"

namespace cvxq {

// Source of weights by their checkpoint names. Immutable; outlives the model that reads it.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // A dense tensor (norms, biases, embeddings, linears that are not packed); data == nullptr if
  // there is none of that name.
  virtual HostTensor Dense(const std::string& name) const = 0;
  // The packed matrix of a linear ("….q_proj", without ".weight"), or nullptr if it is dense.
  virtual StatusOr<std::shared_ptr<const PackedMatrix>> Packed(const std::string& linear) const = 0;
  // The tensor will not be read for a while; its pages may be dropped.
  virtual void Release(const std::string& name) const = 0;
};

// One linear as the block code uses it: exactly one of dense and packed is set.
struct LinearWeight {
  Tensor dense;                           // [M, N] compute
  std::shared_ptr<PackedWeight> packed;
  Tensor bias;                            // [M] float or empty
};

struct NormWeight {
  Tensor w, b;  // float, either may be empty
};

// The weights of one block on a backend.
struct BlockWeights {
  std::array<LinearWeight, kLinearCount> linear;
  NormWeight norm1, norm1_post, norm2, norm2_post, query_norm, key_norm;
};

// Reads block `index`, with matrices in `compute` (F32 or BF16). A missing or misshaped tensor, or
// one with a NaN or Inf, is an error that names it.
StatusOr<BlockWeights> LoadBlock(const WeightSource& source, const ArchSpec& spec, int64_t index,
                                 DType compute, Backend& backend);

}  // namespace cvxq

#endif  // CVXQ_MODEL_WEIGHTS_H_
