// What a JobStore does about a state store that has lost what it had.
#include <set>

#include "service/errors.h"
#include "service/job_entry.h"
#include "service/log.h"

namespace cvxq {
namespace {

Status BeingRestored() {
  return ServiceError(absl::StatusCode::kUnavailable, reason::kStoreUnavailable,
                      "the state store has lost data and is being restored; try again");
}

}  // namespace

StatusOr<std::shared_lock<std::shared_mutex>> JobStore::BeginWrite() {
  if (incomplete_) return BeingRestored();
  std::shared_lock lock(writes_);
  if (incomplete_) return BeingRestored();
  return lock;
}

Status JobStore::KeepEpoch() {
  if (lost_) return StoreError(absl::FailedPreconditionError(""));
  if (!incomplete_) {
    const StatusOr<int64_t> newest = store_.CurrentEpoch();
    if (newest.ok() && *newest == epoch_) return absl::OkStatus();
    if (newest.ok()) return StoreError(absl::FailedPreconditionError(""));
    if (!absl::IsDataLoss(newest.status())) return StoreError(newest.status());
    Log(LogLevel::kError, std::string(newest.status().message()));
    incomplete_ = true;
  }
  const Status status = Restore();
  return status.ok() ? status : StoreError(status);
}

// Makes the store what memory says: it holds all that was ever acknowledged.
Status JobStore::Restore() {
  std::unique_lock alone(writes_);  // waits for writes that are on their way
  CVXQ_ASSIGN_OR_RETURN(const int64_t epoch, store_.RenewEpoch(epoch_, options_.owner));
  epoch_ = epoch;
  std::map<std::string, EntryPtr> jobs;
  {
    std::lock_guard lock(mutex_);
    jobs = jobs_;
  }
  // Jobs that were deleted since, and those whose creation nobody was told of.
  CVXQ_ASSIGN_OR_RETURN(const std::vector<std::string> names, AllLogs(store_, "projects/"));
  for (const std::string& name : names) {
    if (jobs.contains(name) || damaged_.contains(name)) continue;
    CVXQ_RETURN_IF_ERROR(store_.DeleteLog(epoch_, name));
  }
  CVXQ_RETURN_IF_ERROR(deleted_requests_.Restore(epoch_));
  const std::set<std::string> there(names.begin(), names.end());
  int64_t restored = 0;
  for (const auto& [name, entry] : jobs) {
    if (there.contains(name)) {
      const StatusOr<EntryPtr> stored = Load(name);
      const std::shared_ptr<const Job> job = entry->Current();
      // What lies beyond was written without an answer: the next append finds it.
      if (stored.ok() && (*stored)->job->uid() == job->uid() &&
          (*stored)->job->revision() >= job->revision()) {
        continue;
      }
      if (!stored.ok() && !absl::IsDataLoss(stored.status())) return stored.status();
    }
    CVXQ_RETURN_IF_ERROR(RestoreLog(*entry));
    ++restored;
  }
  incomplete_ = false;
  Log(LogLevel::kWarning, "the state store was restored from memory",
      {{"epoch", absl::StrCat(epoch_.load())},
       {"jobs", absl::StrCat(jobs.size())},
       {"written again", absl::StrCat(restored)}});
  return absl::OkStatus();
}

Status JobStore::RestoreLog(Entry& entry) {
  const std::shared_ptr<const Job> job = entry.Current();
  const v1::JobRecord snapshot = SnapshotRecord(*job, entry.request_id, entry.request_digest);
  CVXQ_RETURN_IF_ERROR(store_.PutLog(epoch_, entry.name, entry.request_id, entry.request_digest,
                                     {job->revision(), snapshot.SerializeAsString()}));
  entry.first_revision = job->revision();
  return absl::OkStatus();
}

}  // namespace cvxq
