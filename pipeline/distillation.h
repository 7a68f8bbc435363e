// The KL divergence of a model from the one it stands for, and its gradient with respect to the
// parameters that stay unquantised.
#ifndef CVXQ_PIPELINE_DISTILLATION_H_
#define CVXQ_PIPELINE_DISTILLATION_H_

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/tuned_weights.h"
#include "storage/spill_store.h"

namespace cvxq {

// The final hidden states of the calibration sequences, one handle [T, E] for each: all that is
// kept of the original, since its head is that of the quantised model.
using HiddenStates = std::vector<SpillStore::Handle>;
StatusOr<HiddenStates> KeepHiddenStates(Model& original, const CalibrationSet& calibration,
                                        SpillStore& store, Progress::Phase& progress);

// All arguments outlive it. The same results for any number of threads.
class Distillation {
 public:
  // `student` reads from `weights`.
  Distillation(Model& student, const TunedWeights& weights, const CalibrationSet& calibration,
               const HiddenStates& teacher, const SpillStore& store);

  // Mean KL divergence (nats a token) of some sequences; with `gradient` also its gradient with
  // respect to weights.values(), in their order. The values must stay the same during the call.
  StatusOr<double> Run(std::span<const int64_t> samples, std::vector<float>* gradient);

 private:
  // Adds to kl the divergence of every row of the student's final hidden states [n, E]; where it
  // is not empty, `ghidden` [n, E] takes the gradient of their sum.
  Status Head(const Tensor& hidden, std::span<const int64_t> samples, Tensor ghidden, double& kl);
  Status Backward(const Wave& wave, const std::vector<Tensor>& inputs, const Tensor& x,
                  const Tensor& ghidden);
  void Observe(const NormNames& names, NormKind kind, const Tensor& x, const Tensor& gy);

  Model& student_;
  Backend& backend_;
  const ArchSpec& spec_;
  const TunedWeights& weights_;
  const CalibrationSet& calibration_;
  const HiddenStates& teacher_;
  const SpillStore& store_;
  std::map<std::string, Tensor> sums_;  // gradients by name of the parameter
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_DISTILLATION_H_
