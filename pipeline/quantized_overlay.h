// A checkpoint whose linears are replaced by their quantised values: what later iterations of the
// papers' method take their gradients on.
#ifndef CVXQ_PIPELINE_QUANTIZED_OVERLAY_H_
#define CVXQ_PIPELINE_QUANTIZED_OVERLAY_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights.h"
#include "pipeline/linear_plan.h"
#include "pipeline/model_coder.h"

namespace cvxq {

class QuantizedOverlay : public WeightSource {
 public:
  // Decodes the plans as `coder` coded them; new biases are laid over as well.
  static StatusOr<std::unique_ptr<QuantizedOverlay>> Make(const WeightSource& original,
                                                          const std::vector<LinearPlan>& plans,
                                                          const ModelCoder& coder);
  HostTensor Dense(const std::string& name) const override;
  bool IsPacked(const std::string&) const override { return false; }
  StatusOr<std::shared_ptr<const LinearCodes>> Packed(const std::string&) const override {
    return std::shared_ptr<const LinearCodes>();
  }
  void Release(const std::string& name) const override { original_.Release(name); }

 private:
  explicit QuantizedOverlay(const WeightSource& original) : original_(original) {}
  struct Floats {
    Shape shape;
    std::vector<float> values;
  };
  const WeightSource& original_;
  std::map<std::string, Floats> replaced_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_QUANTIZED_OVERLAY_H_
