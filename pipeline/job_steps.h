// The steps of a job on all its stages, in their order, from where an earlier run has left off.
// After each step, where it is time, all stages save what they have, and a commit (job_state.h)
// says so; the next run asks for no more than the rest. Between two commits is what a crash costs.
//
//   JobSteps steps(std::move(stages), state, /*save_seconds=*/60, damping, progress);
//   CVXQ_RETURN_IF_ERROR(steps.Begin());
//   CVXQ_RETURN_IF_ERROR(steps.Gradients());
//   CVXQ_RETURN_IF_ERROR(steps.Moments());
//   ... steps.CarryOut(order, phase) for each order ...
//   CVXQ_RETURN_IF_ERROR(steps.Collect(tables, plans));
//
// Further iterations have MoreGradients and further orders, until another Collect.
#ifndef CVXQ_PIPELINE_JOB_STEPS_H_
#define CVXQ_PIPELINE_JOB_STEPS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "base/progress.h"
#include "base/status.h"
#include "pipeline/job_state.h"
#include "pipeline/save_clock.h"
#include "pipeline/stages.h"

namespace cvxq {

// Used from one thread at a time. Errors: those of the stages, kDataLoss where what they give in
// the end is not what they had answered. A state that cannot be written is no error: the job goes
// on without, and says so.
class JobSteps : private WaveCommits {
 public:
  // `state` may be nullptr: nothing is kept. `damping` is what was asked for, of H_I. `state` and
  // `progress` outlive this.
  JobSteps(std::unique_ptr<Stages> stages, JobState* state, double save_seconds, double damping,
           Progress& progress);

  Status Begin();
  Status Gradients();
  Status Moments();
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase);
  Status MoreGradients(const GradientPass& pass);
  // Does nothing where an earlier run has got beyond. `tables`: nullptr where there are none.
  Status Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans);
  // Saves what is not saved yet, whether or not it is time.
  Status Keep();
  // Whether stages have begun, or would begin, behind something that is kept.
  bool kept() const { return last_.position > JobPosition{}; }

 private:
  Status Look(std::optional<JobCommit>& commit);
  void NoteBegin(const JobPosition& position);
  bool Due() override;
  void Commit(int64_t waves, absl::Duration took) override;
  void GiveUp(const Status& status) override;
  // The step under way is done: saves and commits it where it is time.
  Status Done();
  Status Save();
  void Commit(const JobPosition& position);

  const std::unique_ptr<Stages> stages_;
  JobState* state_;
  SaveClock clock_;
  const double damping_;
  Progress& progress_;
  JobCommit last_;    // what is known; its position is that of the last commit
  int64_t step_ = 0;  // that has been asked for last
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_JOB_STEPS_H_
