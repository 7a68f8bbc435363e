#include "pipeline/quantized_overlay.h"

namespace cvxq {
namespace {

HostTensor Floats(const std::vector<float>& values, Shape shape) {
  return {{DType::kF32, std::move(shape)}, reinterpret_cast<const std::byte*>(values.data())};
}

}  // namespace

QuantizedOverlay::QuantizedOverlay(const WeightSource& original,
                                   const std::vector<LinearPlan>& plans, const ModelCoder& coder)
    : original_(original), coder_(coder) {
  for (const LinearPlan& plan : plans) {
    weights_[plan.name + ".weight"] = &plan;
    if (!plan.bias.empty()) biases_[plan.name + ".bias"] = &plan;
  }
}

std::optional<TensorInfo> QuantizedOverlay::Describe(const std::string& name) const {
  if (const auto bias = biases_.find(name); bias != biases_.end()) {
    return TensorInfo{DType::kF32, {bias->second->rows}};
  }
  const auto weight = weights_.find(name);
  if (weight == weights_.end()) return original_.Describe(name);
  return TensorInfo{DType::kF32, {weight->second->rows, weight->second->columns}};
}

StatusOr<HostTensor> QuantizedOverlay::Dense(const std::string& name) const {
  if (const auto bias = biases_.find(name); bias != biases_.end()) {
    return Floats(bias->second->bias, {bias->second->rows});
  }
  const auto weight = weights_.find(name);
  if (weight == weights_.end()) return original_.Dense(name);
  std::vector<float>& values = decoded_[name];
  if (values.empty()) {
    CVXQ_ASSIGN_OR_RETURN(values, coder_.Decoded(*weight->second));
  }
  return Floats(values, {weight->second->rows, weight->second->columns});
}

void QuantizedOverlay::Release(const std::string& name) const {
  decoded_.erase(name);
  original_.Release(name);
}

}  // namespace cvxq
