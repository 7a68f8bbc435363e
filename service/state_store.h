// Where the coordinator keeps what must outlive it: logs of records, one for each job, and the
// epoch that says which coordinator may write. Everything a coordinator knows is what its logs say.
//
// Two kinds: an embedded database in one file (sqlite_store.h) and Redis (redis_store.h). Both keep
// the same promises, which tests/service/state_store_test.cc holds them to:
//
//   durable   what a call has acknowledged is there after kill -9 and after power is lost (Redis:
//   as
//             far as its own `appendfsync` goes; a log that lost its end is noticed by its
//             revisions and by the objects that jobs have published)
//   atomic    a call's records appear together or not at all, also where its reply is lost
//   fenced    once a newer epoch is claimed, every write of an older one fails
//
// Thread-safe. Calls block; none may be made on a thread that serves requests of others.
#ifndef CVXQ_SERVICE_STATE_STORE_H_
#define CVXQ_SERVICE_STATE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

struct LogRecord {
  int64_t revision = 0;  // 1, 2, ... within its log, without a hole
  std::string bytes;     // any, at most kLargestRecord
};

inline constexpr int64_t kLargestRecord = int64_t{1} << 20;

// The outcome of CreateLog.
struct CreatedLog {
  std::string name;            // of the log that the request id stands for
  bool created = false;        // false: an earlier call with this request id has made it
  std::string request_digest;  // as it was given when the log was made
};

class StateStore {
 public:
  virtual ~StateStore() = default;

  // Makes the caller the only writer: gives an epoch above all given before, for good. `owner` is
  // for people who look.
  virtual StatusOr<int64_t> ClaimEpoch(const std::string& owner) = 0;
  // The newest epoch; 0: none was ever claimed.
  virtual StatusOr<int64_t> CurrentEpoch() = 0;

  // Makes a log with its first records (revisions 1 ...), and remembers `request_id` (empty: none)
  // with `request_digest` until the log is deleted. With a request id that is known nothing is
  // written and the log it stands for is told. kAlreadyExists: the name is taken by another
  // request. kFailedPrecondition: `epoch` is not the newest.
  virtual StatusOr<CreatedLog> CreateLog(int64_t epoch, const std::string& name,
                                         const std::string& request_id,
                                         const std::string& request_digest,
                                         const std::vector<std::string>& records) = 0;
  // Appends behind revision `after`, which must be the last; gives the new last one. kAborted: it
  // is not (another write came between, or this very one was done and its reply lost: read and
  // see). kNotFound, kFailedPrecondition as above.
  virtual StatusOr<int64_t> Append(int64_t epoch, const std::string& name, int64_t after,
                                   const std::vector<std::string>& records) = 0;
  // Records with revision > after, at most `limit`, in order. kNotFound; kOutOfRange: records that
  // were asked for have been compacted away.
  virtual StatusOr<std::vector<LogRecord>> Read(const std::string& name, int64_t after,
                                                int64_t limit) = 0;
  // Puts one record in the place of all up to `through`; it has that revision from then on.
  virtual Status Compact(int64_t epoch, const std::string& name, int64_t through,
                         const std::string& snapshot) = 0;
  // Removes a log and its request id. No error where there is none.
  virtual Status DeleteLog(int64_t epoch, const std::string& name) = 0;
  // Names of logs that begin with `prefix` and come after `after` in byte order, at most `limit`.
  virtual StatusOr<std::vector<std::string>> ListLogs(const std::string& prefix,
                                                      const std::string& after, int64_t limit) = 0;
};

// sqlite:PATH (or a plain path), redis://HOST[:PORT][/DB], redis+unix://PATH[?db=N]; a password for
// Redis comes from CVXQ_REDIS_PASSWORD, never from the address. kInvalidArgument for others,
// kUnavailable where nobody answers.
StatusOr<std::unique_ptr<StateStore>> OpenStateStore(const std::string& address);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STATE_STORE_H_
