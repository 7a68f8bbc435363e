// Following one job: every event once, in order, from any revision that is still kept.
//
// Each watcher has a bounded queue that writers fill. One that falls behind loses the queue, never
// an event: it reads what it missed from the log, and joins the queue again.
#ifndef CVXQ_SERVICE_JOB_WATCH_H_
#define CVXQ_SERVICE_JOB_WATCH_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "cvxq/v1/quantization_service.pb.h"
#include "service/job.h"
#include "service/state_store.h"

namespace cvxq {

// The event that clients see for a record that has been folded into `job`.
v1::JobEvent EventOf(const v1::JobRecord& record, const Job& job);

// What writers share with one watcher.
class WatchQueue {
 public:
  explicit WatchQueue(size_t limit) : limit_(limit) {}

  // By writers, in order. Never blocks.
  void Push(const std::shared_ptr<const v1::JobEvent>& event);
  // No events come any more; after those in the queue the watcher gets `why`.
  void Close(Status why);

  // By the watcher. Whether events were dropped; from then on none are queued until Restart.
  bool lagging() const;
  void Restart();
  // The next event; null after `timeout`, where events were dropped, or once closed and empty.
  std::shared_ptr<const v1::JobEvent> Pop(absl::Duration timeout);
  Status closed() const;

 private:
  const size_t limit_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<const v1::JobEvent>> events_;
  bool lagging_ = false;
  Status closed_;
};

// Used by one thread at a time.
class JobWatch {
 public:
  // `join` empties the queue and joins it to the job's writers, and tells the revision up to which
  // the log has what the queue will not.
  JobWatch(StateStore& store, std::string name, int64_t after_revision,
           std::shared_ptr<WatchQueue> queue, std::function<StatusOr<int64_t>()> join,
           std::function<void()> leave);
  ~JobWatch();

  // The next event; nullopt where none comes within `timeout`. After the last event of a job that
  // has ended: kOutOfRange without a reason, `ended()` is true. Other errors: kOutOfRange
  // REVISION_COMPACTED, kNotFound (deleted meanwhile), kUnavailable.
  StatusOr<std::optional<v1::JobEvent>> Next(absl::Duration timeout);
  bool ended() const { return ended_; }

 private:
  Status ReadLog();

  StateStore& store_;
  const std::string name_;
  const std::function<StatusOr<int64_t>()> join_;
  const std::function<void()> leave_;
  const std::shared_ptr<WatchQueue> queue_;
  int64_t position_;               // revision of the last event given
  std::deque<v1::JobEvent> read_;  // from the log, to be given before the queue
  bool joined_ = false, bookmarked_ = false, ended_ = false;
  bool last_is_terminal_ = false;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_WATCH_H_
