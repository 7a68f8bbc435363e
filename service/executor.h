// Who does the work of jobs, as the coordinator sees it: this process (local_executor.h), or
// workers on other machines.
#ifndef CVXQ_SERVICE_EXECUTOR_H_
#define CVXQ_SERVICE_EXECUTOR_H_

#include <string>

#include "service/job.h"

namespace cvxq {

// Where executors report. Thread-safe; blocks until the report is durable. Reports that decide
// something (all but kProgress and kLog) are repeated while the store is unavailable.
class JobSink {
 public:
  virtual ~JobSink() = default;
  // The job after the input. Errors as Step (service/job.h): kCancelled and kFailedPrecondition
  // mean that this attempt is to be dropped; kNotFound; kUnavailable.
  virtual StatusOr<Job> Report(const std::string& name, const JobInput& input) = 0;
};

// Thread-safe.
class JobExecutor {
 public:
  virtual ~JobExecutor() = default;

  // Whether the job could start now: reads headers of the source and looks at the output's place,
  // changes nothing.
  virtual Status Check(const Job& job) = 0;
  // Takes the job and returns at once. Later it reports kStart, kRun, any number of kProgress and
  // kLog, then kPublish, publishes if that was granted, and kSucceed; or kFail, kStopped or
  // kRequeue. A job that comes as PUBLISHING was lost in the middle of that: what is there decides
  // between kSucceed, kFail and kRequeue. `sink` outlives Shutdown.
  virtual void Start(const Job& job, JobSink& sink) = 0;
  // Stops a job, wherever it is; no error where it is not here.
  virtual void Cancel(const std::string& name) = 0;
  // Stops all work, as soon as it can be interrupted, and returns when it has; nothing is reported
  // of that. Start does nothing from then on.
  virtual void Shutdown() = 0;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_EXECUTOR_H_
