// The coordinator: jobs (job_store.h), who does them (executor.h), and what goes between. It knows
// nothing of RPCs; service/api/ is the shell that does.
//
//   CVXQ_ASSIGN_OR_RETURN(auto coordinator, Coordinator::Start(store, executor, metrics, options));
//   ...
//   coordinator->Shutdown();   // jobs that run are begun anew by the next one on this store
#ifndef CVXQ_SERVICE_COORDINATOR_H_
#define CVXQ_SERVICE_COORDINATOR_H_

#include <atomic>
#include <memory>
#include <string>

#include "service/executor.h"
#include "service/job_store.h"
#include "service/metrics.h"
#include "service/storage_policy.h"

namespace cvxq {

struct CoordinatorOptions {
  JobStoreOptions jobs;
  int64_t most_active = 20'000;  // jobs that have not ended
  int64_t most_kept = 100'000;   // jobs at all
};

// One request to create a job, checked for form.
struct JobRequest {
  std::string name;        // of the job
  std::string request_id;  // with the project; empty: none
  std::string digest;      // of the request
  Job job;
};

// Thread-safe.
class Coordinator : public JobSink {
 public:
  // Opens the jobs of the store and hands out those that have not ended. All arguments outlive it.
  static StatusOr<std::unique_ptr<Coordinator>> Start(StateStore& store, JobExecutor& executor,
                                                      const StoragePolicy& policy, Metrics& metrics,
                                                      CoordinatorOptions options);
  ~Coordinator() override;

  // Errors of job_spec.h, storage_policy.h and JobStore::Create; kResourceExhausted TOO_MANY_JOBS.
  StatusOr<std::shared_ptr<const Job>> Create(const JobRequest& request);
  // What Create would give, after a look at the storage.
  StatusOr<Job> Validate(const JobRequest& request);
  StatusOr<Job> Cancel(const std::string& name);
  Status Delete(const std::string& name, const std::string& etag);
  StatusOr<Job> Report(const std::string& name, const JobInput& input) override;

  JobStore& jobs() { return *jobs_; }
  // What it knows for the metrics.
  MetricsView View() const;
  Metrics& metrics() { return metrics_; }

  // Ends watches, stops the work, waits for it. Nothing is written afterwards.
  void Shutdown();

 private:
  Coordinator(JobExecutor& executor, const StoragePolicy& policy, Metrics& metrics,
              const CoordinatorOptions& options)
      : executor_(executor), policy_(policy), metrics_(metrics), options_(options) {}

  Status Recover();
  Status CheckRequest(const JobRequest& request) const;
  StatusOr<Job> Apply(const std::string& name, const JobInput& input);

  JobExecutor& executor_;
  const StoragePolicy& policy_;
  Metrics& metrics_;
  const CoordinatorOptions options_;
  std::unique_ptr<JobStore> jobs_;
  std::atomic<bool> stopping_ = false;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_COORDINATOR_H_
