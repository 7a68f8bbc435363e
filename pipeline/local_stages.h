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

  Status Restore(const JobPosition& position) override;
  StatusOr<double> Gradients(Progress& progress, WaveCommits* commits) override;
  StatusOr<double> Moments(Progress& progress) override;
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, int64_t step,
                                   Progress::Phase& phase) override;
  Status Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans) override;
  Status MoreGradients(const GradientPass& pass, int64_t step, Progress& progress,
                       WaveCommits* commits) override;
  Status LoadAverages(int64_t step) override;
  Status Save(int64_t step) override;
  void Committed(const JobPosition&) override {}

  int64_t count() const { return static_cast<int64_t>(stages_.size()); }
  const StageContext& first() const { return stages_[0]->context(); }

 private:
  class Boundary;
  class Cuts;
  // step(stage, its number) on all of them at the same time.
  Status Each(const std::function<Status(Stage&, size_t)>& step);

  const StageJob job_;
  std::vector<std::unique_ptr<Boundary>> boundaries_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_LOCAL_STAGES_H_
