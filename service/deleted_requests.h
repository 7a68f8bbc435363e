// Request ids of jobs that were deleted: they answer for 30 days more, so that a request that is
// sent again late does not make its job a second time. Each has a log of its own in the state
// store.
#ifndef CVXQ_SERVICE_DELETED_REQUESTS_H_
#define CVXQ_SERVICE_DELETED_REQUESTS_H_

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "service/state_store.h"

namespace cvxq {

inline constexpr absl::Duration kRequestIdLife = absl::Hours(24 * 30);
inline constexpr char kDeletedPrefix[] = "deleted/";  // of the names of their logs

struct DeletedRequest {
  std::string id, digest;  // as state_store.h
  std::string job;         // what it made
  absl::Time time;         // of the deletion
};

// Thread-safe. Errors are those of the store.
class DeletedRequests {
 public:
  explicit DeletedRequests(StateStore& store) : store_(store) {}

  // Reads them all; drops those that are too old.
  Status Load(int64_t epoch, absl::Time now);
  // The request with this id, for as long as it is kept.
  std::optional<DeletedRequest> Find(const std::string& id, absl::Time now) const;
  // Durable when this returns. Also drops those that are too old. Adding one again is no error.
  Status Add(int64_t epoch, const DeletedRequest& request);
  // Writes again what the store has lost of them, and removes what it should not have.
  Status Restore(int64_t epoch);

 private:
  Status DropOld(int64_t epoch, absl::Time now);

  StateStore& store_;
  mutable std::mutex mutex_;
  std::map<std::string, DeletedRequest> requests_;  // by id
};

// All names of logs that begin with `prefix`.
StatusOr<std::vector<std::string>> AllLogs(StateStore& store, const std::string& prefix);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_DELETED_REQUESTS_H_
