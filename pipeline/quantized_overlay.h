// A checkpoint whose linears are replaced by their quantised values: what later iterations of the
// papers' method take their gradients on, and what is tuned after coding.
#ifndef CVXQ_PIPELINE_QUANTIZED_OVERLAY_H_
#define CVXQ_PIPELINE_QUANTIZED_OVERLAY_H_

#include <map>
#include <string>
#include <vector>

#include "model/weights.h"
#include "pipeline/linear_plan.h"
#include "pipeline/model_coder.h"

namespace cvxq {

// A matrix is decoded when it is asked for, and let go by Release: what one model keeps resident
// stays, the rest comes and goes. So one model at a time reads from it. All arguments outlive it.
class QuantizedOverlay : public WeightSource {
 public:
  // The plans as `coder` coded them; new biases are laid over as well.
  QuantizedOverlay(const WeightSource& original, const std::vector<LinearPlan>& plans,
                   const ModelCoder& coder);
  std::optional<TensorInfo> Describe(const std::string& name) const override;
  StatusOr<HostTensor> Dense(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  const WeightSource& original_;
  const ModelCoder& coder_;
  std::map<std::string, const LinearPlan*> weights_, biases_;  // by the tensor's name
  mutable std::map<std::string, std::vector<float>> decoded_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_QUANTIZED_OVERLAY_H_
