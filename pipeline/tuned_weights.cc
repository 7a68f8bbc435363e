#include "pipeline/tuned_weights.h"

#include <algorithm>
#include <cmath>

namespace cvxq {
namespace {

constexpr float kHalfRange = 32768;  // half of the largest F16: what tuning adds fits

NormNames NamesOf(const std::string& name, bool weight, bool bias,
                  NormWeight BlockWeights::*member) {
  return {member, weight ? name + ".weight" : "", bias ? name + ".bias" : ""};
}

float RoundTo(DType dtype, float value) {
  switch (dtype) {
    case DType::kF16:
      return F16ToFloat(FloatToF16(value));
    case DType::kBF16:
      return BF16ToFloat(FloatToBF16(value));
    default:
      return value;
  }
}

}  // namespace

std::vector<NormNames> NormsOfBlock(const ArchSpec& spec, int64_t block) {
  std::vector<NormNames> all;
  for (const NormPlace& norm : BlockNorms(spec)) {
    all.push_back(NamesOf(BlockName(norm.name, block), norm.weight, norm.bias, norm.member));
  }
  return all;
}

NormNames FinalNorm(const ArchSpec& spec) {
  if (!spec.final_norm) return {};
  return NamesOf(spec.names.final_norm, spec.norm_weight, spec.norm_bias, nullptr);
}

StatusOr<std::unique_ptr<TunedWeights>> TunedWeights::Make(const ArchSpec& spec,
                                                           const std::vector<LinearPlan>& plans,
                                                           const WeightSource& base) {
  std::unique_ptr<TunedWeights> tuned(new TunedWeights(base));
  for (const LinearPlan& plan : plans) {
    CVXQ_RETURN_IF_ERROR(tuned->Add(plan.name + ".bias", !plan.bias.empty()));
  }
  std::vector<NormNames> norms{FinalNorm(spec)};
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (NormNames& names : NormsOfBlock(spec, block)) norms.push_back(std::move(names));
  }
  for (const NormNames& names : norms) {
    CVXQ_RETURN_IF_ERROR(tuned->Add(names.weight, false));
    CVXQ_RETURN_IF_ERROR(tuned->Add(names.bias, false));
  }
  tuned->values_ = tuned->Rounded(std::move(tuned->values_));
  return tuned;
}

Status TunedWeights::Add(const std::string& name, bool half) {
  if (name.empty()) return absl::OkStatus();
  if (!base_.Describe(name)) return absl::OkStatus();
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, base_.Dense(name));
  CVXQ_ASSIGN_OR_RETURN(const std::vector<float> values, ToFloats(tensor));
  const bool fits = std::all_of(values.begin(), values.end(),
                                [](float value) { return std::abs(value) < kHalfRange; });
  const bool sixteen_bits = half || tensor.dtype != DType::kF32;
  index_[name] = entries_.size();
  entries_.push_back({name, tensor.shape, sixteen_bits && fits ? DType::kF16 : tensor.dtype,
                      static_cast<int64_t>(values_.size())});
  values_.insert(values_.end(), values.begin(), values.end());
  return absl::OkStatus();
}

void TunedWeights::Set(std::vector<float> values) {
  before_ = std::move(values_);
  values_ = std::move(values);
}

std::vector<float> TunedWeights::Rounded(std::vector<float> values) const {
  for (const Entry& entry : entries_) {
    float* begin = values.data() + entry.offset;
    std::transform(begin, begin + entry.shape.elements(), begin,
                   [&](float value) { return RoundTo(entry.stored, value); });
  }
  return values;
}

std::optional<TensorInfo> TunedWeights::Describe(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) return base_.Describe(name);
  return TensorInfo{DType::kF32, entries_[found->second].shape};
}

StatusOr<HostTensor> TunedWeights::Dense(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) return base_.Dense(name);
  const Entry& entry = entries_[found->second];
  return HostTensor{{DType::kF32, entry.shape},
                    reinterpret_cast<const std::byte*>(values_.data() + entry.offset)};
}

}  // namespace cvxq
