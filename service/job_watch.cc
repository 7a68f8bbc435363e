#include "service/job_watch.h"

#include "absl/time/clock.h"
#include "service/errors.h"

namespace cvxq {

v1::JobEvent EventOf(const v1::JobRecord& record, const Job& job) {
  v1::JobEvent event;
  event.set_revision(job.revision());
  if (record.has_logged()) {
    *event.mutable_log() = record.logged();
    *event.mutable_log()->mutable_log_time() = record.time();
  } else {
    *event.mutable_snapshot() = job;
  }
  return event;
}

void WatchQueue::Push(const std::shared_ptr<const v1::JobEvent>& event) {
  std::lock_guard lock(mutex_);
  if (lagging_) return;
  if (events_.size() < limit_) {
    events_.push_back(event);
  } else {
    events_.clear();
    lagging_ = true;
  }
  ready_.notify_one();
}

void WatchQueue::Close(Status why) {
  std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = std::move(why);
  ready_.notify_one();
}

bool WatchQueue::lagging() const {
  std::lock_guard lock(mutex_);
  return lagging_;
}

void WatchQueue::Restart() {
  std::lock_guard lock(mutex_);
  events_.clear();
  lagging_ = false;
}

std::shared_ptr<const v1::JobEvent> WatchQueue::Pop(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  ready_.wait_for(lock, absl::ToChronoMilliseconds(timeout),
                  [this] { return !events_.empty() || lagging_ || !closed_.ok(); });
  if (events_.empty()) return nullptr;
  auto event = std::move(events_.front());
  events_.pop_front();
  return event;
}

Status WatchQueue::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

JobWatch::JobWatch(StateStore& store, std::string name, int64_t after_revision,
                   std::shared_ptr<WatchQueue> queue, std::function<StatusOr<int64_t>()> join,
                   std::function<void()> leave)
    : store_(store),
      name_(std::move(name)),
      join_(std::move(join)),
      leave_(std::move(leave)),
      queue_(std::move(queue)),
      position_(after_revision) {}

JobWatch::~JobWatch() { leave_(); }

// What lies between the last event given and the queue's first.
Status JobWatch::ReadLog() {
  CVXQ_ASSIGN_OR_RETURN(const int64_t through, join_());
  joined_ = true;
  // The job as it was at each revision comes from folding from the log's beginning, which
  // compaction keeps near.
  Job job;
  int64_t after = 0;
  while (job.revision() < through) {
    const StatusOr<std::vector<LogRecord>> records = store_.Read(name_, after, kMostRecords);
    if (absl::IsNotFound(records.status())) {
      return ServiceError(absl::StatusCode::kNotFound, reason::kJobNotFound,
                          absl::StrCat("the job ", name_, " was deleted"));
    }
    CVXQ_RETURN_IF_ERROR(records.status());
    if (records->empty()) {
      return ServiceError(absl::StatusCode::kUnavailable, reason::kStoreUnavailable,
                          absl::StrCat("the state store has no events of ", name_, " after ", after,
                                       "; watch again from the last revision that came"));
    }
    for (const LogRecord& stored : *records) {
      v1::JobRecord record;
      if (!record.ParseFromString(stored.bytes)) {
        return ServiceError(absl::StatusCode::kDataLoss, reason::kJobDamaged,
                            absl::StrCat("record ", stored.revision, " of ", name_, " is damaged"));
      }
      CVXQ_RETURN_IF_ERROR(Fold(record, stored.revision, job));
      after = stored.revision;
      if (record.has_snapshot() && position_ > 0 && position_ < after) {
        return ServiceError(
            absl::StatusCode::kOutOfRange, reason::kRevisionCompacted,
            absl::StrCat("the events of ", name_, " after ", position_,
                         " are not kept any more; get the job and watch from its revision"));
      }
      if (after > through) break;  // the queue has it
      last_is_terminal_ = IsTerminal(job.state());
      if (after > position_) read_.push_back(EventOf(record, job));
    }
  }
  return absl::OkStatus();
}

StatusOr<std::optional<v1::JobEvent>> JobWatch::Next(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    if (read_.empty() && (!joined_ || queue_->lagging())) CVXQ_RETURN_IF_ERROR(ReadLog());
    if (!read_.empty()) {
      v1::JobEvent event = std::move(read_.front());
      read_.pop_front();
      position_ = event.revision();
      return event;
    }
    if (!bookmarked_) {
      bookmarked_ = true;
      v1::JobEvent event;
      event.set_revision(position_);
      event.mutable_bookmark();
      return event;
    }
    if (last_is_terminal_) {
      ended_ = true;
      return absl::OutOfRangeError("the job has ended");
    }
    const absl::Duration left = deadline - absl::Now();
    if (const auto event = queue_->Pop(std::max(left, absl::ZeroDuration()))) {
      if (event->revision() <= position_) continue;
      position_ = event->revision();
      last_is_terminal_ = event->has_snapshot() && IsTerminal(event->snapshot().state());
      return *event;
    }
    if (queue_->lagging()) continue;
    CVXQ_RETURN_IF_ERROR(queue_->closed());
    if (absl::Now() >= deadline) return std::nullopt;
  }
}

}  // namespace cvxq
