// All stages of a model in this process, each with its own thread, and boundaries in memory.
#ifndef CVXQ_PIPELINE_LOCAL_STAGES_H_
#define CVXQ_PIPELINE_LOCAL_STAGES_H_

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "pipeline/stage.h"
#include "pipeline/stages.h"

namespace cvxq {

class LocalStages : public Stages {
 public:
  // `workers` stages, or as many as the model has blocks; threads and memory are shared out evenly.
  LocalStages(StageJob job, int64_t workers, int threads, int64_t memory);
  ~LocalStages() override;

  Status Gradients(Progress& progress) override;
  Status Moments(Progress& progress) override;
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase) override;
  Status Collect(const EntropyTables& tables, std::vector<LinearPlan>& plans) override;

  int64_t count() const { return static_cast<int64_t>(stages_.size()); }

 private:
  class Boundary;
  Status Each(const std::function<Status(Stage&)>& step);

  const StageJob job_;
  std::vector<std::unique_ptr<Boundary>> boundaries_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_LOCAL_STAGES_H_
