#include "service/job_store.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "service/errors.h"
#include "service/job_entry.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

constexpr char kLogPrefix[] = "projects/";

Status NotFound(const std::string& name) {
  return ServiceError(absl::StatusCode::kNotFound, reason::kJobNotFound,
                      absl::StrCat("there is no job ", name));
}

Status RequestIdReused(const std::string& job) {
  return ServiceError(absl::StatusCode::kInvalidArgument, reason::kRequestIdReused,
                      absl::StrCat("the request id was used for ", job, " with another request"));
}

StatusOr<v1::JobRecord> Parse(const std::string& name, const LogRecord& stored) {
  v1::JobRecord record;
  if (record.ParseFromString(stored.bytes)) return record;
  return absl::DataLossError(absl::StrCat("record ", stored.revision, " of ", name, " is damaged"));
}

std::vector<std::string> Serialize(const std::vector<v1::JobRecord>& records) {
  std::vector<std::string> result;
  for (const v1::JobRecord& record : records) result.push_back(record.SerializeAsString());
  return result;
}

}  // namespace

StatusOr<std::unique_ptr<JobStore>> JobStore::Open(StateStore& store, JobStoreOptions options) {
  std::unique_ptr<JobStore> jobs(new JobStore(store, std::move(options)));
  CVXQ_ASSIGN_OR_RETURN(jobs->epoch_, store.ClaimEpoch(jobs->options_.owner));
  CVXQ_RETURN_IF_ERROR(jobs->deleted_requests_.Load(jobs->epoch_, jobs->options_.clock()));
  CVXQ_ASSIGN_OR_RETURN(const std::vector<std::string> names, AllLogs(store, kLogPrefix));
  for (const std::string& name : names) {
    StatusOr<EntryPtr> entry = jobs->Load(name);
    if (entry.ok()) {
      jobs->Count((*entry)->Current()->state(), 1);
      jobs->jobs_[name] = *std::move(entry);
    } else if (absl::IsDataLoss(entry.status())) {
      jobs->damaged_[name] = entry.status();
    } else {
      return entry.status();
    }
  }
  return jobs;
}

StatusOr<JobStore::EntryPtr> JobStore::Load(const std::string& name) {
  auto entry = std::make_shared<Entry>();
  entry->name = name;
  Job job;
  for (;;) {
    CVXQ_ASSIGN_OR_RETURN(const std::vector<LogRecord> records,
                          store_.Read(name, job.revision(), kMostRecords));
    if (job.revision() == 0 && !records.empty()) entry->first_revision = records[0].revision;
    for (const LogRecord& stored : records) {
      CVXQ_ASSIGN_OR_RETURN(const v1::JobRecord record, Parse(name, stored));
      CVXQ_RETURN_IF_ERROR(Fold(record, stored.revision, job));
      if (record.has_created()) {
        entry->request_id = record.created().request_id();
        entry->request_digest = record.created().request_digest();
      } else if (record.has_snapshot()) {
        entry->request_id = record.snapshot().request_id();
        entry->request_digest = record.snapshot().request_digest();
      }
    }
    if (static_cast<int64_t>(records.size()) < kMostRecords) break;
  }
  if (job.name() != name) {
    return absl::DataLossError(absl::StrCat("the log ", name, " tells of ", job.name()));
  }
  entry->job = std::make_shared<const Job>(std::move(job));
  return entry;
}

// What the state store says, as clients are told; notes the loss of the epoch.
Status JobStore::StoreError(const Status& status) {
  if (absl::IsFailedPrecondition(status)) {
    lost_ = true;
    return ServiceError(absl::StatusCode::kUnavailable, reason::kNotLeader,
                        "another coordinator has taken over; ask that one");
  }
  if (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) {
    return ServiceError(absl::StatusCode::kUnavailable, reason::kStoreUnavailable,
                        std::string(status.message()));
  }
  return status;
}

StatusOr<JobStore::EntryPtr> JobStore::Find(const std::string& name) const {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = jobs_.find(name); found != jobs_.end()) return found->second;
  }
  if (const auto found = damaged_.find(name); found != damaged_.end()) {
    return ServiceError(absl::StatusCode::kDataLoss, reason::kJobDamaged,
                        std::string(found->second.message()));
  }
  return NotFound(name);
}

StatusOr<CreatedJob> JobStore::Create(const Job& job, const std::string& request_id,
                                      const std::string& digest) {
  CVXQ_ASSIGN_OR_RETURN(const auto writing, BeginWrite());
  if (request_id.empty()) return CreateLocked(job, request_id, digest);
  std::lock_guard alone(LockOf(request_id));
  const auto deleted = deleted_requests_.Find(request_id, options_.clock());
  if (!deleted.has_value()) return CreateLocked(job, request_id, digest);
  if (deleted->digest != digest) return RequestIdReused(deleted->job);
  return ServiceError(absl::StatusCode::kNotFound, reason::kJobNotFound,
                      absl::StrCat("the job that this request made, ", deleted->job,
                                   ", was deleted; send a new request id for a new one"));
}

StatusOr<CreatedJob> JobStore::CreateLocked(const Job& job, const std::string& request_id,
                                            const std::string& digest) {
  JobStep step = CreateJob(job, options_.clock());
  step.records[0].mutable_created()->set_request_id(request_id);
  step.records[0].mutable_created()->set_request_digest(digest);
  const StatusOr<CreatedLog> log =
      store_.CreateLog(epoch_, job.name(), request_id, digest, Serialize(step.records));
  if (absl::IsAlreadyExists(log.status())) {
    return ServiceError(absl::StatusCode::kAlreadyExists, reason::kJobExists,
                        absl::StrCat("the job ", job.name(), " exists; choose another id"));
  }
  if (!log.ok()) return StoreError(log.status());
  if (!log->created && log->request_digest != digest) {
    return RequestIdReused(log->name);
  }
  if (!log->created) {
    if (const StatusOr<EntryPtr> known = Find(log->name); known.ok()) {
      return CreatedJob{.job = (*known)->Current()};
    }
    // It was made by a call that is not done yet, or whose outcome this process never learnt.
  }
  EntryPtr entry;
  if (log->created) {
    entry = std::make_shared<Entry>();
    entry->name = job.name();
    entry->request_id = request_id;
    entry->request_digest = digest;
    entry->job = std::make_shared<const Job>(step.job);
  } else {
    StatusOr<EntryPtr> loaded = Load(log->name);
    if (!loaded.ok()) return StoreError(loaded.status());
    entry = *std::move(loaded);
  }
  std::lock_guard lock(mutex_);
  const auto [known, added] = jobs_.try_emplace(log->name, entry);
  CreatedJob result{.job = known->second->Current(), .created = log->created};
  // Of several calls that come here with one log, one hands the job out.
  if (added) {
    Count(result.job->state(), 1);
    result.actions = step.actions;
  }
  return result;
}

StatusOr<std::shared_ptr<const Job>> JobStore::Get(const std::string& name) const {
  CVXQ_ASSIGN_OR_RETURN(const EntryPtr entry, Find(name));
  return entry->Current();
}

JobPage JobStore::List(const std::string& prefix, const std::string& after, size_t limit,
                       const std::function<bool(const Job&)>& matches) const {
  JobPage page;
  std::lock_guard lock(mutex_);
  for (auto it = jobs_.upper_bound(prefix + after);
       it != jobs_.end() && it->first.starts_with(prefix); ++it) {
    std::shared_ptr<const Job> job = it->second->Current();
    if (!matches(*job)) continue;
    if (page.jobs.size() == limit) {
      page.next_after = page.jobs.back()->name().substr(prefix.size());
      break;
    }
    page.jobs.push_back(std::move(job));
  }
  return page;
}

std::map<Job::State, int64_t> JobStore::CountByState() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

void JobStore::Count(Job::State state, int64_t change) {
  if ((counts_[state] += change) == 0) counts_.erase(state);
}

StatusOr<JobStep> JobStore::Apply(const std::string& name, const JobInput& input) {
  CVXQ_ASSIGN_OR_RETURN(const EntryPtr entry, Find(name));
  CVXQ_ASSIGN_OR_RETURN(const auto storing, BeginWrite());
  std::lock_guard writing(entry->write);
  for (;;) {
    if (entry->deleted) return NotFound(name);
    const std::shared_ptr<const Job> job = entry->Current();
    CVXQ_ASSIGN_OR_RETURN(JobStep step, Step(*job, input, options_.clock()));
    if (step.records.empty()) return step;
    const StatusOr<int64_t> last =
        store_.Append(epoch_, name, job->revision(), Serialize(step.records));
    if (absl::IsAborted(last.status())) {
      CVXQ_RETURN_IF_ERROR(CatchUp(*entry));
      continue;
    }
    if (!last.ok()) return StoreError(last.status());
    Publish(*entry, step.records);
    CompactIfLong(*entry);
    return step;
  }
}

// Folds what the log has beyond memory: writes whose reply was lost. Called under `write`.
Status JobStore::CatchUp(Entry& entry) {
  const int64_t known = entry.Current()->revision();
  const StatusOr<std::vector<LogRecord>> records = store_.Read(entry.name, known, kMostRecords);
  if (!records.ok()) return StoreError(records.status());
  if (records->empty()) {
    return ServiceError(absl::StatusCode::kUnavailable, reason::kStoreUnavailable,
                        absl::StrCat("the store refuses to append to ", entry.name, " after ",
                                     known, " and has nothing after it"));
  }
  std::vector<v1::JobRecord> parsed;
  for (const LogRecord& stored : *records) {
    CVXQ_ASSIGN_OR_RETURN(parsed.emplace_back(), Parse(entry.name, stored));
  }
  Publish(entry, parsed);
  return absl::OkStatus();
}

// Takes records that the log has into memory and tells all watchers. Called under `write`.
void JobStore::Publish(Entry& entry, const std::vector<v1::JobRecord>& records) {
  Job job = *entry.Current();
  const Job::State before = job.state();
  std::vector<std::shared_ptr<const v1::JobEvent>> events;
  for (const v1::JobRecord& record : records) {
    if (!Fold(record, job.revision() + 1, job).ok()) break;  // the next append finds out
    events.push_back(std::make_shared<const v1::JobEvent>(EventOf(record, job)));
  }
  if (job.state() != before) {
    std::lock_guard lock(mutex_);
    Count(before, -1);
    Count(job.state(), 1);
  }
  std::lock_guard lock(entry.read);
  entry.job = std::make_shared<const Job>(std::move(job));
  for (const auto& event : events) {
    for (const auto& watch : entry.watches) watch->Push(event);
  }
}

// Bounds the log. Failing here fails nothing: the next step tries again. Called under `write`.
void JobStore::CompactIfLong(Entry& entry) {
  const int64_t last = entry.Current()->revision();
  if (last - entry.first_revision < options_.most_records) return;
  const int64_t through = last - options_.kept_records;
  Job job;
  while (job.revision() < through) {
    const auto records =
        store_.Read(entry.name, job.revision(),
                    std::min(kMostRecords, std::max<int64_t>(1, through - job.revision())));
    if (!records.ok() || records->empty()) return;
    for (const LogRecord& stored : *records) {
      if (stored.revision > through) break;
      const auto record = Parse(entry.name, stored);
      if (!record.ok() || !Fold(*record, stored.revision, job).ok()) return;
    }
  }
  const v1::JobRecord snapshot = SnapshotRecord(job, entry.request_id, entry.request_digest);
  if (store_.Compact(epoch_, entry.name, through, snapshot.SerializeAsString()).ok()) {
    entry.first_revision = through;
  }
}

Status JobStore::Delete(const std::string& name, const std::string& etag) {
  CVXQ_ASSIGN_OR_RETURN(const EntryPtr entry, Find(name));
  CVXQ_ASSIGN_OR_RETURN(const auto storing, BeginWrite());
  std::lock_guard alone(LockOf(entry->request_id));
  std::lock_guard writing(entry->write);
  if (entry->deleted) return NotFound(name);
  const std::shared_ptr<const Job> job = entry->Current();
  if (!etag.empty() && etag != job->etag()) {
    return ServiceError(absl::StatusCode::kAborted, reason::kJobChanged,
                        absl::StrCat(name, " has changed: its etag is ", job->etag()));
  }
  if (!IsTerminal(job->state())) {
    return ServiceError(absl::StatusCode::kFailedPrecondition, reason::kJobNotEnded,
                        absl::StrCat(name, " is ", Job::State_Name(job->state()),
                                     "; cancel it first, and delete it when it has ended"));
  }
  if (!entry->request_id.empty()) {
    const Status status = deleted_requests_.Add(
        epoch_, {entry->request_id, entry->request_digest, name, options_.clock()});
    if (!status.ok()) return StoreError(status);
  }
  if (const Status status = store_.DeleteLog(epoch_, name); !status.ok()) return StoreError(status);
  entry->deleted = true;
  {
    std::lock_guard lock(entry->read);
    for (const auto& watch : entry->watches) watch->Close(NotFound(name));
  }
  std::lock_guard lock(mutex_);
  Count(job->state(), -1);
  jobs_.erase(name);
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<JobWatch>> JobStore::Watch(const std::string& name,
                                                    int64_t after_revision) {
  CVXQ_ASSIGN_OR_RETURN(const EntryPtr entry, Find(name));
  if (after_revision > entry->Current()->revision()) {
    return ServiceError(absl::StatusCode::kOutOfRange, reason::kRevisionUnknown,
                        absl::StrCat(name, " has no revision ", after_revision,
                                     " yet; the last is ", entry->Current()->revision()));
  }
  auto queue = std::make_shared<WatchQueue>(options_.watch_queue);
  const auto join = [this, entry, queue]() -> StatusOr<int64_t> {
    std::lock_guard lock(entry->read);
    queue->Restart();
    auto& watches = entry->watches;
    if (std::find(watches.begin(), watches.end(), queue) == watches.end()) {
      watches.push_back(queue);
    }
    if (closed_) {
      queue->Close(ServiceError(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                                "the coordinator is shutting down; watch again from the last "
                                "revision that came"));
    }
    return entry->job->revision();
  };
  const auto leave = [entry, queue] {
    std::lock_guard lock(entry->read);
    std::erase(entry->watches, queue);
  };
  return std::make_unique<JobWatch>(store_, name, after_revision, queue, join, leave);
}

void JobStore::CloseWatches() {
  closed_ = true;
  const Status why =
      ServiceError(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                   "the coordinator is shutting down; watch again from the last revision");
  std::lock_guard lock(mutex_);
  for (const auto& [name, entry] : jobs_) {
    std::lock_guard reading(entry->read);
    for (const auto& watch : entry->watches) watch->Close(why);
  }
}

}  // namespace cvxq
