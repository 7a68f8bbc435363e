// All stages of a job, and replicas of them, on registered workers. Where a worker is lost, its
// stages begin anew on another one and go through all steps once more; the others keep what they
// have, and wait. Results are the same bits wherever stages run and however often they begin.
#ifndef CVXQ_SERVICE_WORKERS_REMOTE_STAGES_H_
#define CVXQ_SERVICE_WORKERS_REMOTE_STAGES_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/replicas.h"
#include "pipeline/stage.h"
#include "pipeline/stages.h"
#include "service/workers/worker_pool.h"

namespace cvxq {

struct RemoteStagesOptions {
  int64_t workers = 0;   // that a job is laid out for, at most; 0: those there are
  int64_t replicas = 0;  // of its stages (replicas.h); 0: as it pays
  // How long a job waits where it has no worker at all.
  absl::Duration patience = absl::Minutes(1);
  int64_t most_losses = 8;  // of one stage: what kills its workers again and again is given up
};

class RemoteStages : public Stages, private WorkerListener {
 public:
  // Waits for the first worker and lays the job out for those there are then. `pool` and what `job`
  // refers to outlive it. kUnavailable without workers.
  static StatusOr<std::unique_ptr<Stages>> Start(WorkerPool& pool, const StageJob& job,
                                                 const RemoteStagesOptions& options);
  ~RemoteStages() override;

  // Errors: those of the stages; kUnavailable where workers are gone for too long or a stage was
  // lost too often.
  Status Restore(const JobPosition& position) override;
  StatusOr<double> Gradients(Progress& progress, WaveCommits* commits) override;
  StatusOr<double> Moments(Progress& progress) override;
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, int64_t step,
                                   Progress::Phase& phase) override;
  Status Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans) override;
  Status Save(int64_t step) override;
  void Committed(const JobPosition& position) override;

 private:
  struct Part {  // a stage of a replica
    BlockRange blocks;
    std::shared_ptr<WorkerLink> worker;  // nullptr: none now
    int64_t attempt = 0;
    JobPosition begin;                     // what the worker has begun behind
    int64_t advanced = 0;                  // of the step under way
    std::optional<v1::Report::Done> done;  // of the step under way, from
    int64_t done_attempt = 0;              // this one
    bool saved = false;                    // at the cut under way,
    double save_seconds = 0;               // which took so long
  };

  RemoteStages(WorkerPool& pool, const StageJob& job, const RemoteStagesOptions& options);
  void OnReport(const WorkerLink& worker, v1::Report report) override;
  void OnChange() override;

  Status Cut();
  Status Settle();
  void Assign(size_t stage, std::shared_ptr<WorkerLink> worker);
  void TellNeighbours(size_t stage);
  std::string AddressOf(int64_t stage) const;
  void Send(size_t stage, v1::Command command);
  // Has all stages do it, and what comes before where they were lost. What `Part::done` is then.
  Status Step(v1::Command command, Progress::Phase* phase, std::vector<LinearPlan>* plans,
              WaveCommits* commits = nullptr);
  Status Wait(std::unique_lock<std::mutex>& lock, WaveCommits* commits);
  void TendCut(std::unique_lock<std::mutex>& lock, WaveCommits& commits);
  double Damping() const;

  WorkerPool& pool_;
  const StageJob job_;
  const RemoteStagesOptions options_;
  const std::string id_;  // of this run
  std::mutex mutex_;      // of all below
  std::condition_variable changed_;
  v1::StageSpec spec_;
  JobLayout layout_;
  std::vector<Part> parts_;            // stage * replicas + replica: as the blocks that they own
  JobPosition base_;                   // where stages begin that are given out now
  std::vector<v1::Command> steps_;     // from there, the one under way too
  int64_t step_ = 0, start_step_ = 0;  // numbers: of the one under way, of the last Restore
  int64_t cut_ = 0;                    // where all stages are to save; 0: nowhere
  Status cut_status_;                  // of those that could not
  Status status_;                      // of the first failure
  Progress::Phase* phase_ = nullptr;   // of the step under way
  std::vector<LinearPlan>* plans_ = nullptr;  // that linears go to
  std::optional<absl::Time> alone_;           // since when there is no worker
  // Workers that could not do their part for what they lack (files, disk, memory), and how the last
  // of them put it: others may have it.
  std::set<std::shared_ptr<WorkerLink>> unfit_;
  Status unfit_status_;
};

// What makes Quantize() run a job with the workers of a pool, which outlives the job.
MakeStages UseWorkers(WorkerPool& pool, RemoteStagesOptions options = {});
// The same, but in this process where no worker of the job's class is registered when it begins and
// the class is this process's own.
MakeStages UseWorkersIfAny(WorkerPool& pool);

// With what the workers of the pool compute who would have a job that begins now: of each class are
// as many as have registered, and the largest is taken; of equal ones this process's own, then the
// first by name. nullopt: there are none.
std::optional<Numerics> NumericsOfWorkers(const WorkerPool& pool);
// The same once jobs need not wait for workers any more; kCancelled by an interruption.
StatusOr<std::optional<Numerics>> SettledNumericsOfWorkers(const WorkerPool& pool);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_REMOTE_STAGES_H_
