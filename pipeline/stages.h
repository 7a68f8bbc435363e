// All stages of a model, wherever they are: in this process (local_stages.h) or in others.
#ifndef CVXQ_PIPELINE_STAGES_H_
#define CVXQ_PIPELINE_STAGES_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "base/progress.h"
#include "base/status.h"

namespace cvxq {

struct EntropyAnswer;  // entropy_rate.h
struct EntropyOrder;
class EntropyTables;  // quant/entropy_tables.h
struct GradientPass;  // stage.h
struct JobPosition;   // job_state.h
struct LinearPlan;    // linear_plan.h
struct StageJob;      // stage.h

// Who keeps in the job's state how far the gradients have come. Used by one thread at a time.
class WaveCommits {
 public:
  virtual ~WaveCommits() = default;
  virtual bool Due() = 0;  // whether it is time
  // All stages have saved their sums of so many waves, which took the slowest so long.
  virtual void Commit(int64_t waves, absl::Duration took) = 0;
  // They cannot.
  virtual void GiveUp(const Status& status) = 0;
};

// The steps of a job in their order: Restore, Gradients, Moments, CarryOut for each order, Collect;
// Restore takes the place of those that it goes behind. The first failure stops all stages and is
// returned; kDataLoss may then be of what the job's state holds. Used from one thread at a time.
// job_steps.h is what has them done.
class Stages {
 public:
  virtual ~Stages() = default;

  // Has all stages begin behind what the job's state holds. kDataLoss where it does not: they can
  // then be restored to another position.
  virtual Status Restore(const JobPosition& position) = 0;
  // The largest damping that a factorisation took. `commits`: nullptr, nothing is saved meanwhile.
  virtual StatusOr<double> Gradients(Progress& progress, WaveCommits* commits) = 0;
  virtual StatusOr<double> Moments(Progress& progress) = 0;
  // What came of the order, over all its blocks. `step`: its number among all steps of the job.
  virtual StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, int64_t step,
                                           Progress::Phase& phase) = 0;
  // Corrects biases, with the tables of the last order if it had any, and gives up what the stages
  // have coded: fills the plans of the whole model.
  virtual Status Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans) = 0;

  // Where the model is not cut. A gradient pass after the first, with its number among all steps,
  // and the same as an earlier run has left it.
  virtual Status MoreGradients(const GradientPass& pass, int64_t step, Progress& progress,
                               WaveCommits* commits);
  virtual Status LoadAverages(int64_t step);

  // All stages save what the steps until this one have made.
  virtual Status Save(int64_t step) = 0;
  // A stage that is lost will be restored to here: nothing before is needed any more.
  virtual void Committed(const JobPosition& position) = 0;
};

// Tell of factorisations that took more damping than was asked for, if any did.
void NoteOutputDamping(double damping, Progress& progress);
void NoteInputDamping(double damping, double asked, Progress& progress);

// Makes the stages of a job; what it refers to outlives them. nullptr: in this process.
using MakeStages = std::function<StatusOr<std::unique_ptr<Stages>>(const StageJob& job)>;

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_STAGES_H_
