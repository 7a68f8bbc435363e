// All stages of a model, and replicas of them, in this process, each with its own thread. Between
// them waves are in memory, sums in a SpillStore.
#ifndef CVXQ_PIPELINE_LOCAL_STAGES_H_
#define CVXQ_PIPELINE_LOCAL_STAGES_H_

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "pipeline/replicas.h"
#include "pipeline/stage.h"
#include "pipeline/stages.h"
#include "storage/spill_store.h"

namespace cvxq {

class LocalStages : public Stages {
 public:
  // For so many workers, laid out by ChooseLayout; threads and memory are shared out evenly. Errors
  // of MakeBackend.
  static StatusOr<std::unique_ptr<LocalStages>> Make(StageJob job, int64_t workers, int threads,
                                                     int64_t memory);
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

  const JobLayout& layout() const { return layout_; }
  const StageContext& first() const { return stages_[0]->context(); }

 private:
  class Boundary;
  class Cuts;
  LocalStages(StageJob job, int64_t workers, int64_t memory);
  Status AddStages(int threads, int64_t memory);
  // step(stage, its number) on all of them at the same time.
  Status Each(const std::function<Status(Stage&, size_t)>& step);

  const StageJob job_;
  const JobLayout layout_;
  SpillStore waves_, sums_;  // on their way; those in memory, these where there is room
  std::vector<std::unique_ptr<Boundary>> boundaries_, between_replicas_;
  // In the order of the blocks that they own: stage * replicas + replica.
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_LOCAL_STAGES_H_
