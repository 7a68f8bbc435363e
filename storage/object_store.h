// Objects under addresses: local files (file://) and buckets (s3://) behind one interface, with the
// same promises, which tests/storage/object_store_test.cc holds them to.
//
//   CVXQ_ASSIGN_OR_RETURN(auto store, OpenObjectStore("s3://bucket/prefix"));
//   CVXQ_ASSIGN_OR_RETURN(ObjectInfo info, store->Head("model.safetensors"));
//   CVXQ_RETURN_IF_ERROR(store->Read("model.safetensors", info.etag, offset, span));
//
// Keys are relative to the address that was opened: names with '/' between parts, none empty, "."
// or
// "..". Thread-safe. Calls block, with retries of what may pass (busy, broken connections) until
// the deadline of the options.
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
  std::string etag;  // changes whenever the contents do; opaque
};

// An object that is written front to back and appears whole, when it is committed, or not at all.
// Used from one thread at a time. Destroyed before Commit, it leaves nothing behind (what a killed
// process leaves of an upload to S3 is removed by the bucket's own rule for unfinished uploads).
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

  // kNotFound, kPermissionDenied, kUnavailable name the address and the key, here and below.
  virtual StatusOr<ObjectInfo> Head(const std::string& key) = 0;
  // Exactly bytes [offset, offset + out.size()). `etag`, unless empty: kFailedPrecondition where
  // the object is not (any more) the one that has it. kOutOfRange beyond its end.
  virtual Status Read(const std::string& key, const std::string& etag, int64_t offset,
                      std::span<std::byte> out) = 0;
  // A whole small object; kResourceExhausted where it is larger than `limit`.
  virtual StatusOr<std::string> ReadAll(const std::string& key, int64_t limit) = 0;
  // Replaces what is there; for small objects (up to 64 MiB).
  virtual Status Write(const std::string& key, std::string_view bytes) = 0;
  // Writes only where nothing is: of any number of callers at once exactly one succeeds, all others
  // get kAlreadyExists. A caller whose own write came through while its reply was lost gets OK:
  // what is there is compared.
  virtual Status WriteIfAbsent(const std::string& key, std::string_view bytes) = 0;
  virtual StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key) = 0;
  // No error where there is none.
  virtual Status Delete(const std::string& key) = 0;
  // All objects whose key begins with `prefix`, in byte order of keys.
  virtual StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) = 0;
  // Whether WriteIfAbsent keeps its promise here, tried out with a scratch key of that name: a
  // store that ignores the condition must not be published to. kFailedPrecondition says so.
  virtual Status CheckConditionalWrites(const std::string& scratch_key) = 0;
};

struct ObjectStoreOptions {
  int parallel_requests = 16;             // of one large read or upload
  int64_t part_bytes = int64_t{8} << 20;  // of both
  int64_t deadline_ms = 60'000;           // of one call's retries without any progress
};

// file://PATH or a plain path: a folder. s3://BUCKET[/PREFIX]: endpoint, region and credentials
// from the environment, as the AWS tools read them (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
// AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; no credentials: requests
// are not signed), and CVXQ_S3_ADDRESSING=path|virtual (default: path for an endpoint of one's own,
// else virtual). kInvalidArgument for others.
StatusOr<std::unique_ptr<ObjectStore>> OpenObjectStore(const std::string& address,
                                                       const ObjectStoreOptions& options = {});

}  // namespace cvxq

#endif  // CVXQ_STORAGE_OBJECT_STORE_H_
