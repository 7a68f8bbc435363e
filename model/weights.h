// Where a model's weights come from: a dense checkpoint or a quantised one.
#ifndef CVXQ_MODEL_WEIGHTS_H_
#define CVXQ_MODEL_WEIGHTS_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "kernels/linear_codes.h"
#include "model/arch_spec.h"
#include "storage/checkpoint.h"
#include "tensor/tensor.h"

namespace cvxq {

// Source of weights by their checkpoint names. Immutable; outlives the model that reads it.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Type and shape of a dense tensor (norms, biases, embeddings, linears that are not packed),
  // without reading it; nullopt if there is none of that name.
  virtual std::optional<TensorInfo> Describe(const std::string& name) const = 0;
  // The tensor with its data, which stay as long as the result's `hold`, or, where that is empty,
  // as long as the source. An error names it.
  virtual StatusOr<HostTensor> Dense(const std::string& name) const = 0;
  // Whether a dense tensor's bytes are those that were written, where that can be told; kDataLoss
  // names it.
  virtual Status Verify(const std::string&) const { return absl::OkStatus(); }
  // Whether Packed gives a matrix, without reading it.
  virtual bool IsPacked(const std::string& /*linear*/) const { return false; }
  // The quantised matrix of a linear ("….q_proj", without ".weight"), or nullptr if it is dense, as
  // all are unless a source says otherwise.
  virtual StatusOr<std::shared_ptr<const LinearCodes>> Packed(const std::string& /*linear*/) const {
    return std::shared_ptr<const LinearCodes>();
  }
  // The tensor will not be read for a while; its pages may be dropped.
  virtual void Release(const std::string& name) const = 0;
};

// A checkpoint's tensors as they are; nothing is packed.
class DenseWeights : public WeightSource {
 public:
  explicit DenseWeights(std::shared_ptr<const Checkpoint> checkpoint)
      : checkpoint_(std::move(checkpoint)) {}
  std::optional<TensorInfo> Describe(const std::string& name) const override;
  StatusOr<HostTensor> Dense(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
};

// Checkpoints saved from the model without its head lack the leading "model." of every name. Drops
// it from the names of `spec` where `source` has the token table under the shorter name only.
void AdaptNames(const WeightSource& source, ArchSpec& spec);

// One linear as the block code uses it: exactly one of dense and packed is set.
// (Matrices in the affine form become dense ones.)
struct LinearWeight {
  Tensor dense;  // [M, N] compute
  std::shared_ptr<PackedWeight> packed;
  Tensor bias;  // [M] float or empty
};

struct NormWeight {
  Tensor w, b;  // float, either may be empty
};

// The weights of one block on a backend.
struct BlockWeights {
  std::array<LinearWeight, kLinearCount> linear;
  NormWeight norm1, norm1_post, norm2, norm2_post, query_norm, key_norm;
  int64_t bytes = 0;  // of all of them
};

// A norm of the blocks of an architecture: its name (with "{}"), shape, what it has, and where it
// goes.
struct NormPlace {
  std::string name;
  Shape shape;
  bool weight, bias;
  NormWeight BlockWeights::*member;
};
std::vector<NormPlace> BlockNorms(const ArchSpec& spec);

// The tensor `name` on a backend, in `dtype` or, without one, as it is stored. It uses the
// checkpoint's memory where the type fits, else it is a copy. kDataLoss, with the name, if it is
// missing, has another shape, or holds a NaN or Inf.
StatusOr<Tensor> LoadTensor(const WeightSource& source, const std::string& name, const Shape& shape,
                            std::optional<DType> dtype, Backend& backend);

// Weight and bias of a norm as floats: those that `weight` and `bias` ask for.
StatusOr<NormWeight> LoadNorm(const WeightSource& source, const std::string& name,
                              const Shape& shape, bool weight, bool bias, Backend& backend);

// Whether every tensor of block `index` is there with its shape, without reading the data. (The
// shape of a quantised matrix is checked when it is read.)
Status CheckBlock(const WeightSource& source, const ArchSpec& spec, int64_t index);

// Tells the source that the tensors of block `index` will not be read for a while.
void ReleaseBlock(const WeightSource& source, const ArchSpec& spec, int64_t index);

// Reads block `index`, with matrices in `compute` (F32 or BF16). A missing or misshaped tensor, or
// one with a NaN or Inf, is an error that names it.
StatusOr<BlockWeights> LoadBlock(const WeightSource& source, const ArchSpec& spec, int64_t index,
                                 DType compute, Backend& backend);

// Reads what LoadBlock read of norms and biases again, for a source that has other values now.
Status ReloadParameters(const WeightSource& source, const ArchSpec& spec, int64_t index,
                        Backend& backend, BlockWeights& weights);

}  // namespace cvxq

#endif  // CVXQ_MODEL_WEIGHTS_H_
