// Runs jobs in this process through Quantize(), first come first served.
#ifndef CVXQ_SERVICE_LOCAL_EXECUTOR_H_
#define CVXQ_SERVICE_LOCAL_EXECUTOR_H_

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "pipeline/quantize.h"
#include "service/executor.h"
#include "service/storage_policy.h"

namespace cvxq {

struct LocalExecutorOptions {
  int parallel = 1;        // jobs at a time; 0: they wait
  MakeStages make_stages;  // given: asked first who has the stages of a job
  std::function<StatusOr<std::optional<Numerics>>()> stage_numerics;  // of those
  absl::Duration report_interval = absl::Seconds(1);
  double save_seconds = 15;  // how often a job keeps what is done, for after a crash
  // The work itself; tests put their own in.
  std::function<StatusOr<QuantizeReport>(const QuantizeOptions&, Progress&)> quantize = Quantize;
};

class LocalExecutor : public JobExecutor {
 public:
  LocalExecutor(StoragePolicy policy, LocalExecutorOptions options);
  ~LocalExecutor() override;

  Status Check(const Job& job) override;
  void Start(const Job& job, JobSink& sink) override;
  void Cancel(const std::string& name) override;
  void Shutdown() override;

 private:
  struct Task {
    Job job;
    JobSink* sink;
    std::shared_ptr<std::atomic<bool>> stop;  // by Cancel, Shutdown, or a report that was refused
  };

  void Work();
  void Run(const Task& task);
  // `publishing`: the job as it was when it got the right to publish, if it did.
  Status Quantise(const Task& task, int32_t attempt, std::optional<Job>& publishing);
  void ForgetState(const Job& job) const;
  JobInput Resume(const Job& job);
  bool Wait(absl::Duration duration);

  const StoragePolicy policy_;
  const LocalExecutorOptions options_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable wake_;
  std::deque<Task> queue_;
  std::map<std::string, std::shared_ptr<std::atomic<bool>>> running_;  // stop flags by name
  bool shutdown_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_LOCAL_EXECUTOR_H_
