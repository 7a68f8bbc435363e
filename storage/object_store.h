// Objects under addresses: local files (file://) and buckets (s3://) behind one interface, with the
// same promises, which tests/storage/object_store_test.cc holds them to.
//
//   CVXQ_ASSIGN_OR_RETURN(auto store, OpenObjectStore("s3://bucket/prefix"));
//   CVXQ_ASSIGN_OR_RETURN(ObjectInfo info, store->Head("model.safetensors"));
//   CVXQ_RETURN_IF_ERROR(store->Read("model.safetensors", info.etag, offset, span));
//
// Keys are relative to the address that was opened: CheckKey says which are good. Thread-safe.
// Calls block, with retries of what may pass (busy servers, broken connections) until the deadline
// of the options; once the process is told to stop (base/interrupt.h) nothing waits for another try
// any more (kCancelled).
//
// Errors of all calls: kNotFound, kPermissionDenied, kInvalidArgument (a bad key), kDataLoss (an
// answer that makes no sense), kUnavailable (still failing at the deadline) name the whole address
// of the object; secrets are never in a message.
#ifndef CVXQ_STORAGE_OBJECT_STORE_H_
#define CVXQ_STORAGE_OBJECT_STORE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cvxq {

struct ObjectInfo {
  std::string key;
  int64_t size = 0;
  std::string etag;  // changes whenever the contents do; opaque, never empty
};

// What Write and WriteIfAbsent take at most; ObjectWriter has no such limit.
inline constexpr int64_t kLargestSmallObject = int64_t{64} << 20;

// An object that is written front to back and appears whole, when it is committed, or not at all.
// Used from one thread at a time, not beyond the life of its store. After an error it can only be
// destroyed. Destroyed before Commit, it leaves nothing behind (what a killed process leaves is
// invisible; of an upload to S3 it is removed by the bucket's own rule for unfinished uploads, of a
// file it is a file called .cvxq-partial-*).
class ObjectWriter {
 public:
  virtual ~ObjectWriter() = default;
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  // The object is durable afterwards. It replaces what was there.
  virtual Status Commit() = 0;
};

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  virtual std::string address() const = 0;  // as it was opened, without secrets

  virtual StatusOr<ObjectInfo> Head(const std::string& key) = 0;
  // Exactly bytes [offset, offset + out.size()), all of one version of the object. `etag`, unless
  // empty: kFailedPrecondition where the object is not (any more) the one that has it. kOutOfRange
  // beyond its end. After an error `out` holds anything.
  virtual Status Read(const std::string& key, const std::string& etag, int64_t offset,
                      std::span<std::byte> out) = 0;
  // A whole small object; kResourceExhausted where it is larger than `limit`.
  virtual StatusOr<std::string> ReadAll(const std::string& key, int64_t limit) = 0;
  // Replaces what is there; at most kLargestSmallObject. Durable when it returns.
  virtual Status Write(const std::string& key, std::string_view bytes) = 0;
  // Writes only where nothing is: of any number of callers at once with different bytes exactly one
  // succeeds, all others get kAlreadyExists. A caller whose bytes are those that are there gets OK
  // too, because its own write, come through while the reply was lost, looks the same: callers that
  // have to be told apart put their names into the bytes.
  virtual Status WriteIfAbsent(const std::string& key, std::string_view bytes) = 0;
  // `expected_bytes`: about how large it will get, 0 if unknown. S3 takes 10,000 parts: without it
  // an object may have 10,000 times options.part_bytes (78 GiB), with it twice what was expected.
  virtual StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key,
                                                         int64_t expected_bytes) = 0;
  // No error where there is none.
  virtual Status Delete(const std::string& key) = 0;
  // All objects whose key begins with `prefix` (empty: all), in byte order of keys. Objects that
  // come or go meanwhile may be in it or not. Things whose names are no good keys are left out.
  virtual StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) = 0;

  // Whether WriteIfAbsent keeps its promise here, tried out alone and in small races with scratch
  // objects called `scratch_key` and some random letters, which it removes: a store that ignores
  // the condition, or looks first and writes later, must not be published to. kFailedPrecondition
  // says so.
  Status CheckConditionalWrites(const std::string& scratch_key);
};

struct ObjectStoreOptions {
  // Of one large read or upload; an upload keeps as many parts in memory. Amazon wants parts of at
  // least 5 MiB in uploads.
  int parallel_requests = 16;
  int64_t part_bytes = int64_t{8} << 20;
  // How long a call goes on after a failure without any progress, and below what the first pause
  // lies; the limit doubles with each failure.
  int64_t deadline_ms = 60'000;
  int64_t backoff_ms = 50;
};

// file://PATH (PATH begins with '/'; no percent signs are decoded) or a plain path: a folder, made
// when something is written. s3://BUCKET[/PREFIX]: endpoint, region and credentials from the
// environment, as storage/s3/s3_config.h says. kInvalidArgument for others.
StatusOr<std::unique_ptr<ObjectStore>> OpenObjectStore(const std::string& address,
                                                       const ObjectStoreOptions& options = {});

// Good keys are 1 to 900 bytes: parts with '/' between them, none empty, "." or "..", none longer
// than 255 bytes or beginning with ".cvxq-partial-", without control characters. kInvalidArgument.
Status CheckKey(const std::string& key);
inline constexpr char kPartialName[] = ".cvxq-partial-";

}  // namespace cvxq

#endif  // CVXQ_STORAGE_OBJECT_STORE_H_
