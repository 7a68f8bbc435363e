// All jobs, on top of a StateStore: in memory as their logs say, and never ahead of them.
//
//   CVXQ_ASSIGN_OR_RETURN(auto jobs, JobStore::Open(store, {.owner = "host:7700"}));
//   CVXQ_ASSIGN_OR_RETURN(CreatedJob created, jobs->Create(job, request_id, digest));
//   CVXQ_ASSIGN_OR_RETURN(JobStep step, jobs->Apply(name, {.kind = JobInput::Kind::kCancel}));
//   CVXQ_ASSIGN_OR_RETURN(auto watch, jobs->Watch(name, /*after_revision=*/0));
//
// A job's log has the job's name. Opening claims an epoch: from then on no other coordinator can
// write, and once another claims, nothing can be written here (kUnavailable NOT_LEADER). Jobs can
// be read whatever the store does. A store that loses what it had gets it again (KeepEpoch).
// Thread-safe; calls that write block until the store has acknowledged.
#ifndef CVXQ_SERVICE_JOB_STORE_H_
#define CVXQ_SERVICE_JOB_STORE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "service/deleted_requests.h"
#include "service/job.h"
#include "service/job_watch.h"
#include "service/state_store.h"

namespace cvxq {

struct JobStoreOptions {
  std::string owner;  // told to the state store, for people
  std::function<absl::Time()> clock = absl::Now;
  int64_t most_records = 512;  // of a log before it is compacted ...
  int64_t kept_records = 256;  // ... to so many
  size_t watch_queue = 64;     // events that a watcher may be behind
};

struct CreatedJob {
  std::shared_ptr<const Job> job;
  bool created = false;            // false: an earlier call with the same request id made it
  std::vector<JobAction> actions;  // to be done now
};

struct JobPage {
  std::vector<std::shared_ptr<const Job>> jobs;
  std::string next_after;  // id to go on after; empty: no more
};

class JobStore {
 public:
  // Claims the epoch and replays all logs. A damaged log costs that job alone (`damaged`).
  static StatusOr<std::unique_ptr<JobStore>> Open(StateStore& store, JobStoreOptions options);

  // `job` as accepted, with name and uid. kInvalidArgument REQUEST_ID_REUSED where `request_id`
  // came with another digest; kAlreadyExists JOB_EXISTS; kNotFound JOB_NOT_FOUND where the request
  // id has made a job that was deleted in the last 30 days.
  StatusOr<CreatedJob> Create(const Job& job, const std::string& request_id,
                              const std::string& digest);
  // kNotFound JOB_NOT_FOUND; kDataLoss JOB_DAMAGED.
  StatusOr<std::shared_ptr<const Job>> Get(const std::string& name) const;
  // The jobs of `prefix` ("projects/p/quantizeModelJobs/") with an id after `after` that `matches`.
  JobPage List(const std::string& prefix, const std::string& after, size_t limit,
               const std::function<bool(const Job&)>& matches) const;
  // Takes a step (service/job.h) and writes it down; steps again where another write came between.
  StatusOr<JobStep> Apply(const std::string& name, const JobInput& input);
  // kFailedPrecondition JOB_NOT_ENDED; kAborted JOB_CHANGED where `etag`, if given, is another.
  Status Delete(const std::string& name, const std::string& etag);
  // Events after the revision; see job_watch.h. kOutOfRange REVISION_UNKNOWN for one to come.
  StatusOr<std::unique_ptr<JobWatch>> Watch(const std::string& name, int64_t after_revision);

  // Jobs by state, for metrics and limits.
  std::map<Job::State, int64_t> CountByState() const;
  const std::map<std::string, Status>& damaged() const { return damaged_; }
  int64_t epoch() const { return epoch_; }
  // Whether this is still the one that may write, asking the state store; to be called every now
  // and then. Where the store has lost what it had acknowledged, it is given all jobs again under a
  // new epoch, each log as one snapshot that kept too little; until then writes give kUnavailable
  // STORE_UNAVAILABLE, and what was about to be created without an answer is undone. kUnavailable
  // NOT_LEADER: another coordinator has taken over, for good.
  Status KeepEpoch();
  // Ends all watches, also those to come, with kUnavailable SHUTTING_DOWN.
  void CloseWatches();

 private:
  struct Entry;
  using EntryPtr = std::shared_ptr<Entry>;
  JobStore(StateStore& store, JobStoreOptions options)
      : store_(store), options_(std::move(options)), deleted_requests_(store) {}

  StatusOr<EntryPtr> Find(const std::string& name) const;
  StatusOr<EntryPtr> Load(const std::string& name);
  Status CatchUp(Entry& entry);
  void Publish(Entry& entry, const std::vector<v1::JobRecord>& records);
  void CompactIfLong(Entry& entry);
  void Count(Job::State state, int64_t change);  // called under mutex_
  Status StoreError(const Status& status);
  // Held while anything is written, so that nothing is while the store is restored. kUnavailable.
  StatusOr<std::shared_lock<std::shared_mutex>> BeginWrite();
  Status Restore();
  Status RestoreLog(Entry& entry);
  StatusOr<CreatedJob> CreateLocked(const Job& job, const std::string& request_id,
                                    const std::string& digest);
  std::mutex& LockOf(const std::string& request_id) {
    return request_locks_[std::hash<std::string>()(request_id) % request_locks_.size()];
  }

  StateStore& store_;
  const JobStoreOptions options_;
  std::atomic<int64_t> epoch_ = 0;
  std::atomic<bool> lost_ = false, closed_ = false;
  std::atomic<bool> incomplete_ = false;  // the store lacks what it should have
  std::shared_mutex writes_;              // see BeginWrite
  DeletedRequests deleted_requests_;
  // A request id is not given to a new job while its job is being deleted.
  std::array<std::mutex, 256> request_locks_;
  std::map<std::string, Status> damaged_;  // by name; set while opening
  mutable std::mutex mutex_;               // guards the rest
  std::map<std::string, EntryPtr> jobs_;
  std::map<Job::State, int64_t> counts_;  // of jobs_; none is 0
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_STORE_H_
