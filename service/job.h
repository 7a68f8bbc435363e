// What may happen to a job, as a pure function: no clock, no threads, no disk. The shells around it
// (job_store.h, coordinator.h) do what it decides.
//
//                 start          run           publish            succeed
//     QUEUED ---------> PREPARING --> RUNNING --------> PUBLISHING --------> SUCCEEDED
//       |  ^                |            |                 |    fail
//       |  +--- requeue ----+------------+-----------------+    (from any) --> FAILED
//       |                   | cancel     | cancel
//       | cancel            +-> CANCELLING <-+
//       +--------------------------> CANCELLED <-- stopped, fail, requeue
//
// The state of a job is the resource that clients see; a job's log is a sequence of JobRecords, and
// folding them gives the state. The outcome is decided by whichever of Publishing and Cancelling is
// appended to the log first: from PUBLISHING nobody can cancel, from CANCELLING nobody can publish.
#ifndef CVXQ_SERVICE_JOB_H_
#define CVXQ_SERVICE_JOB_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "cvxq/v1/job_log.pb.h"
#include "cvxq/v1/resources.pb.h"

namespace cvxq {

using Job = v1::QuantizeModelJob;

struct JobInput {
  enum class Kind {
    // From clients.
    kCancel,
    // From the coordinator as it starts: whoever worked on the job is gone.
    kRecover,
    // From whoever works on it. They carry the attempt that they belong to, and may be repeated
    // where a reply was lost.
    kStart,     // `attempt` is the one that begins: the job's own plus one
    kRun,       // inputs are good
    kProgress,  // `progress`
    kLog,       // `log`
    kPublish,   // asks for the right to publish `result`
    kSucceed,   // it is published
    kFail,      // `error`
    kStopped,   // stopped as told
    kRequeue,   // cannot go on and has published nothing; `text` says why
  };
  Kind kind;
  int32_t attempt = 0;
  v1::Progress progress;
  v1::LogLine log;
  v1::ResultManifest result;
  google::rpc::Status error;
  std::string text;
};

// What a shell has to do after it has appended a step's records.
enum class JobAction {
  kExecute,  // hand the job to the executor
  kStop,     // tell the executor to stop
};

struct JobStep {
  Job job;                             // as the records make it
  std::vector<v1::JobRecord> records;  // none: nothing changes
  std::vector<JobAction> actions;
};

inline constexpr int32_t kDefaultMaxAttempts = 5;

bool IsTerminal(Job::State state);

// A job's first step. `accepted` has name, uid and what the client asked for.
JobStep CreateJob(const Job& accepted, absl::Time now);

// kFailedPrecondition (with a reason) where the input does not fit the state; kCancelled where it
// comes too late because the job is or was cancelled: the caller stops its work.
StatusOr<JobStep> Step(const Job& job, const JobInput& input, absl::Time now);

// Applies a record. Its revision follows the job's, or the record is a log's first (an empty job:
// Created with revision 1, or Snapshot). kDataLoss otherwise, or for a record that this version
// does not know.
Status Fold(const v1::JobRecord& record, int64_t revision, Job& job);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_H_
