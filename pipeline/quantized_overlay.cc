#include "pipeline/quantized_overlay.h"

namespace cvxq {

StatusOr<std::unique_ptr<QuantizedOverlay>> QuantizedOverlay::Make(
    const WeightSource& original, const std::vector<LinearPlan>& plans, const ModelCoder& coder) {
  std::unique_ptr<QuantizedOverlay> overlay(new QuantizedOverlay(original));
  for (const LinearPlan& plan : plans) {
    CVXQ_ASSIGN_OR_RETURN(std::vector<float> w, coder.Decoded(plan));
    overlay->replaced_[plan.name + ".weight"] = {{plan.rows, plan.columns}, std::move(w)};
    if (!plan.bias.empty()) overlay->replaced_[plan.name + ".bias"] = {{plan.rows}, plan.bias};
  }
  return overlay;
}

HostTensor QuantizedOverlay::Dense(const std::string& name) const {
  const auto found = replaced_.find(name);
  if (found == replaced_.end()) return original_.Dense(name);
  return {DType::kF32, found->second.shape,
          reinterpret_cast<const std::byte*>(found->second.values.data())};
}

}  // namespace cvxq
