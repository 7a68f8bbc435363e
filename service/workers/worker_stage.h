// One stage of a job on a worker: a thread that carries out the coordinator's commands one after
// the other and reports on each.
#ifndef CVXQ_SERVICE_WORKERS_WORKER_STAGE_H_
#define CVXQ_SERVICE_WORKERS_WORKER_STAGE_H_

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "service/workers/stage_times.h"
#include "service/workers/waves.h"
#include "service/workers/wire.h"

namespace cvxq {

struct WorkerResources {
  int threads = 1;
  int64_t memory = 0;  // 0: as the model needs
  std::string spill_folder;
  BackendKind backend = BackendKind::kAuto;
  WorkerMetrics* metrics = nullptr;  // told of stages and steps; may be nullptr
};

class WorkerStage {
 public:
  using SendReport = std::function<void(const v1::Report&)>;

  // `start` has a StageSpec. `waves` outlives this; `send` is called from this stage's thread and
  // from those of its pool.
  WorkerStage(v1::Command start, Waves& waves, const WorkerResources& resources,
              std::shared_ptr<grpc::ChannelCredentials> credentials, SendReport send);
  // Waits for the thread.
  ~WorkerStage();

  const v1::StageKey& key() const { return start_.key(); }
  // Neighbours and cuts are heard at once, steps when those before are done.
  void Add(v1::Command command);
  // Returns at once; nothing more is reported.
  void Stop();
  bool finished() const { return finished_; }

 private:
  class Cuts;
  void Run();
  Status Work();
  StagePlace Place();
  Status CarryOut(Stage& stage, const v1::Command& command);
  StatusOr<v1::Command> Next();
  void Send(v1::Report report, int64_t step);

  const v1::Command start_;
  const WorkerResources resources_;
  const SendReport send_;
  std::atomic<bool> stop_ = false, finished_ = false;
  std::atomic<int64_t> cut_ = 0;  // waves after which sums are to be saved; 0: none
  StageTimes times_;              // of the step under way
  std::unique_ptr<RemoteBoundary> before_, after_;
  std::vector<std::unique_ptr<RemoteBoundary>> peers_;  // by replica
  std::mutex mutex_;                                    // of the three below
  std::condition_variable wake_;
  std::deque<v1::Command> commands_;
  int64_t step_ = 0;  // under way
  std::thread thread_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_WORKER_STAGE_H_
