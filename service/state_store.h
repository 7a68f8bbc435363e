// Where the coordinator keeps what must outlive it: logs of records, one for each job, and the
// epoch that says which coordinator may write. Everything a coordinator knows is what its logs say.
//
// Two kinds: an embedded database in one file (store/sqlite_store.h) and Redis
// (store/redis_store.h). Both keep the same promises, which tests/service/state_store_test.cc holds
// them to:
//
//   durable   what a call has acknowledged is there after kill -9 and after power is lost (Redis:
//             as far as its own `appendfsync` goes; a log that lost its end is noticed by its
//             revisions and by the objects that jobs have published)
//   atomic    a call's records appear together or not at all, also where its reply is lost
//   fenced    once a newer epoch is claimed, every write of an older one fails
//   noticed   a store that lost what it had acknowledged (a server that was emptied, or started
//             from an older file) takes no write of the object it was acknowledged to, and gives it
//             no records, until that object calls RenewEpoch: kUnavailable
//
// Errors of every call, beside those named below: kInvalidArgument (a limit below is exceeded; a
// caller's bug), kUnavailable (the disk or the server fails: of a write the outcome is unknown,
// read and see), kResourceExhausted (the disk or the server is full; nothing was written),
// kDataLoss (what is stored is damaged). Each names the file or the server.
//
// Thread-safe. Calls block; none may be made on a thread that serves requests of others. A store
// does not outlive a fork: the child opens its own.
#ifndef CVXQ_SERVICE_STATE_STORE_H_
#define CVXQ_SERVICE_STATE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

struct LogRecord {
  int64_t revision = 0;  // 1, 2, ... within its log, without a hole
  std::string bytes;     // any, at most kLargestRecord
};

inline constexpr int64_t kLargestRecord = int64_t{1} << 20;
// Of one call: 1 to kMostRecords records, together at most kLargestBatch bytes.
inline constexpr int64_t kMostRecords = 1000;
inline constexpr int64_t kLargestBatch = int64_t{16} << 20;
// Of the name of a log (any bytes, at least one), a request id, a digest and an owner, in bytes.
inline constexpr int64_t kLongestName = 1024;

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
  // The newest epoch; 0: none was ever claimed. kDataLoss: the store has lost what it acknowledged
  // to this object, and nobody has claimed an epoch since.
  virtual StatusOr<int64_t> CurrentEpoch() = 0;
  // As ClaimEpoch, for the holder of `epoch`, who knows what the store has lost and means to write
  // it again. kFailedPrecondition: somebody else has claimed a newer one. To be called again where
  // it fails otherwise.
  virtual StatusOr<int64_t> RenewEpoch(int64_t epoch, const std::string& owner) = 0;

  // Makes a log with its first records (revisions 1 ...), and remembers `request_id` (empty: none)
  // with `request_digest` until the log is deleted. With a request id that is known nothing is
  // written and the log it stands for is told, whatever the digest: the caller compares.
  // kAlreadyExists: the name is taken by another request. kFailedPrecondition: `epoch` is not the
  // newest.
  virtual StatusOr<CreatedLog> CreateLog(int64_t epoch, const std::string& name,
                                         const std::string& request_id,
                                         const std::string& request_digest,
                                         const std::vector<std::string>& records) = 0;
  // Appends behind revision `after`, which must be the last; gives the new last one. kAborted: it
  // is not (another write came between, or this very one was done and its reply lost: read and
  // see). kNotFound, kFailedPrecondition as above.
  virtual StatusOr<int64_t> Append(int64_t epoch, const std::string& name, int64_t after,
                                   const std::vector<std::string>& records) = 0;
  // Records with revision > after, the first `limit` of them or as many as there are, in order;
  // with `after` = 0 from wherever the log begins now, which is its snapshot once it is compacted.
  // kNotFound; kOutOfRange: records that were asked for have been compacted away, or `after` is
  // beyond the last (the log has lost its end).
  virtual StatusOr<std::vector<LogRecord>> Read(const std::string& name, int64_t after,
                                                int64_t limit) = 0;
  // Puts one record in the place of all up to `through`; it has that revision from then on. Nothing
  // happens where the log begins behind `through` already. kOutOfRange: `through` is beyond the
  // last. kNotFound, kFailedPrecondition as above.
  virtual Status Compact(int64_t epoch, const std::string& name, int64_t through,
                         const std::string& snapshot) = 0;
  // Puts a log with this one record, of this revision, in the place of whatever has the name, and
  // `request_id` (empty: none) with `request_digest` in the place of whatever it stood for: what a
  // store has lost is written again as if it were compacted. kFailedPrecondition as above.
  virtual Status PutLog(int64_t epoch, const std::string& name, const std::string& request_id,
                        const std::string& request_digest, const LogRecord& snapshot) = 0;
  // Removes a log and its request id. No error where there is none. kFailedPrecondition as above.
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
