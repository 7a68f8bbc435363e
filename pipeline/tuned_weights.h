// The parameters of a model that stay unquantised - weights and biases of norms, biases of linears
// - laid over a source of weights so that they can take other values.
#ifndef CVXQ_PIPELINE_TUNED_WEIGHTS_H_
#define CVXQ_PIPELINE_TUNED_WEIGHTS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights.h"
#include "pipeline/linear_plan.h"

namespace cvxq {

// Names of the weight and the bias of each norm of a block, and of the final norm (member null);
// empty where there is none.
struct NormNames {
  NormWeight BlockWeights::*member = nullptr;
  std::string weight, bias;
};
std::vector<NormNames> NormsOfBlock(const ArchSpec& spec, int64_t block);
NormNames FinalNorm(const ArchSpec& spec);

class TunedWeights : public WeightSource {
 public:
  struct Entry {
    std::string name;
    Shape shape;
    DType stored;        // its type in the file
    int64_t offset = 0;  // of its values among those of all
  };

  // All norms and biases of `base`, which outlives it and holds what was coded by `plans`, rounded
  // to the types that they have in the file: F32 stays, what has 16 bits becomes F16 where its
  // range allows. (Steps of tuning would be lost in BF16: its numbers near 1 are 1/128 apart.)
  static StatusOr<std::unique_ptr<TunedWeights>> Make(const ArchSpec& spec,
                                                      const std::vector<LinearPlan>& plans,
                                                      const WeightSource& base);

  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<float>& values() const { return values_; }  // of all entries
  // Other values; a model that reads from here must ReloadParameters before its next use.
  void Set(std::vector<float> values);
  // `values`, each rounded as its entry is stored.
  std::vector<float> Rounded(std::vector<float> values) const;

  std::optional<TensorInfo> Describe(const std::string& name) const override;
  StatusOr<HostTensor> Dense(const std::string& name) const override;
  bool IsPacked(const std::string& linear) const override { return base_.IsPacked(linear); }
  StatusOr<std::shared_ptr<const LinearCodes>> Packed(const std::string& linear) const override {
    return base_.Packed(linear);
  }
  void Release(const std::string& name) const override { base_.Release(name); }

 private:
  explicit TunedWeights(const WeightSource& base) : base_(base) {}
  // Takes the tensor `name` if there is one; `half`: it is stored as F16 anyway.
  Status Add(const std::string& name, bool half);

  const WeightSource& base_;
  std::vector<Entry> entries_;
  std::map<std::string, size_t> index_;  // of an entry, by name
  std::vector<float> values_, before_;   // before_: what a model may still look at until it reloads
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_TUNED_WEIGHTS_H_
