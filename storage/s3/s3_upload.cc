#include "storage/s3/s3_upload.h"

#include <openssl/evp.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "storage/s3/s3_xml.h"

namespace cvxq {
namespace {

constexpr int64_t kMostParts = 10'000;
constexpr int64_t kAbortDeadlineMs = 5'000;
constexpr char kMark[] = "x-amz-meta-cvxq-upload";

std::string RandomMark() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

// The etag that S3 gives to a part that it does not encrypt by a key of the customer's.
std::string Md5Etag(const std::string& bytes) {
  std::string digest(16, '\0');
  if (EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()),
                 nullptr, EVP_md5(), nullptr) != 1) {
    return "";  // forbidden on this machine: the part is sent again then
  }
  return absl::StrCat("\"", absl::BytesToHexString(digest), "\"");
}

class S3Upload : public ObjectWriter {
 public:
  S3Upload(S3Client& client, const std::string& key, int64_t expected_bytes)
      : client_(client),
        key_(key),
        part_bytes_(std::max(client.options().part_bytes, expected_bytes / (kMostParts / 2))) {}

  ~S3Upload() override {
    cancelled_ = true;
    StopWorkers();
    if (id_.empty() || completed_) return;
    ObjectStoreOptions options = client_.options();
    options.deadline_ms = std::min(options.deadline_ms, kAbortDeadlineMs);
    Tries tries(options, nullptr);
    while (client_.Try({.method = "DELETE", .key = key_, .query = {{"uploadId", id_}}}).may_pass &&
           tries.Again()) {
    }
  }

  Status Append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      // Only now that more comes: the last part is never empty, and one part alone needs no upload.
      if (static_cast<int64_t>(buffer_.size()) == part_bytes_) CVXQ_RETURN_IF_ERROR(HandOver());
      const size_t n = std::min<size_t>(bytes.size(), part_bytes_ - buffer_.size());
      if (buffer_.empty() && n < bytes.size()) buffer_.reserve(part_bytes_);
      buffer_.append(reinterpret_cast<const char*>(bytes.data()), n);
      bytes = bytes.subspan(n);
    }
    const std::lock_guard lock(mutex_);
    return status_;
  }

  Status Commit() override {
    if (id_.empty()) {
      CVXQ_RETURN_IF_ERROR(status_);
      const S3Reply reply = client_.Send({.method = "PUT", .key = key_, .body = buffer_});
      status_ = reply.ok() ? Used() : client_.Failure("write", key_, reply);
      return reply.ok() ? absl::OkStatus() : status_;
    }
    CVXQ_RETURN_IF_ERROR(HandOver());
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return unfinished_ == 0 || !status_.ok(); });
    }
    StopWorkers();
    CVXQ_RETURN_IF_ERROR(status_);
    status_ = Complete();
    CVXQ_RETURN_IF_ERROR(status_);
    completed_ = true;
    status_ = Used();
    return absl::OkStatus();
  }

 private:
  struct Part {
    int64_t number;
    std::string bytes;
  };

  Status Used() const {
    return absl::FailedPreconditionError(absl::StrCat(key_, " is already committed"));
  }

  Status Start() {
    mark_ = RandomMark();
    const S3Reply reply = client_.Send({.method = "POST",
                                        .key = key_,
                                        .query = {{"uploads", ""}},
                                        .headers = {{kMark, mark_}},
                                        .cancelled = &cancelled_});
    if (!reply.ok()) return client_.Failure("write", key_, reply);
    const auto id = ParseUploadId(reply.http.body);
    if (!id.ok()) return client_.Failure("write", key_, id.status());
    id_ = *id;
    return absl::OkStatus();
  }

  // Gives the full buffer to the threads; waits while they have as many parts as they may.
  Status HandOver() {
    if (id_.empty()) {
      CVXQ_RETURN_IF_ERROR(status_);
      status_ = Start();
    }
    std::unique_lock lock(mutex_);
    const int most = client_.options().parallel_requests;
    changed_.wait(lock, [&] { return unfinished_ < most || !status_.ok(); });
    CVXQ_RETURN_IF_ERROR(status_);
    if (static_cast<int64_t>(etags_.size()) == kMostParts) {
      return status_ = absl::ResourceExhaustedError(
                 absl::StrCat("cannot write ", client_.config().address(), "/", key_,
                              ": S3 takes no more than 10000 parts, here of ", part_bytes_,
                              " bytes; write smaller files"));
    }
    etags_.emplace_back();
    queue_.push_back({.number = static_cast<int64_t>(etags_.size()), .bytes = std::move(buffer_)});
    buffer_ = {};
    ++unfinished_;
    if (static_cast<int>(workers_.size()) < unfinished_) {
      try {
        workers_.emplace_back([this] { Work(); });
      } catch (const std::system_error&) {
        if (workers_.empty()) {
          return status_ = absl::ResourceExhaustedError(
                     absl::StrCat("cannot write ", key_, ": no thread can be started"));
        }
      }
    }
    changed_.notify_all();
    return absl::OkStatus();
  }

  void Work() {
    const StopScope scope(stop_of_maker_);
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return !queue_.empty() || stop_; });
      if (stop_) return;
      Part part = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      const StatusOr<std::string> etag = SendPart(part);
      part.bytes = {};
      lock.lock();
      --unfinished_;
      if (etag.ok()) {
        etags_[part.number - 1] = *etag;
      } else if (status_.ok()) {
        status_ = etag.status();
        cancelled_ = true;  // the others are in vain
      }
      changed_.notify_all();
    }
  }

  void StopWorkers() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  // The part's etag.
  StatusOr<std::string> SendPart(const Part& part) {
    Tries tries(client_.options(), &cancelled_);
    while (true) {
      S3Reply reply =
          client_.Try({.method = "PUT",
                       .key = key_,
                       .query = {{"partNumber", absl::StrCat(part.number)}, {"uploadId", id_}},
                       .body = part.bytes,
                       .cancelled = &cancelled_});
      reply.tries = tries.count();
      if (reply.ok()) {
        const std::string etag = reply.http.header("etag");
        if (!etag.empty()) return etag;
        return client_.Failure("write", key_,
                               absl::DataLossError("a broken answer (a part without ETag)"));
      }
      if (!reply.may_pass || !tries.Again()) return client_.Failure("write", key_, reply);
      if (reply.unknown_outcome()) {
        std::string etag = FindPart(part);
        if (!etag.empty()) return etag;
      }
    }
  }

  // The etag of a part that is there whole, else nothing.
  std::string FindPart(const Part& part) {
    const S3Reply reply =
        client_.Try({.method = "GET",
                     .key = key_,
                     .query = {{"max-parts", "1"},
                               {"part-number-marker", absl::StrCat(part.number - 1)},
                               {"uploadId", id_}},
                     .largest_body = kLargestXml,
                     .cancelled = &cancelled_});
    if (!reply.ok()) return "";
    const auto parts = ParseListParts(reply.http.body);
    if (!parts.ok()) return "";
    for (const ListedPart& there : *parts) {
      if (there.number == part.number && there.size == static_cast<int64_t>(part.bytes.size()) &&
          there.etag == Md5Etag(part.bytes)) {
        return there.etag;
      }
    }
    return "";
  }

  Status Complete() {
    const std::string body = CompleteUploadXml(etags_);
    Tries tries(client_.options(), nullptr);
    while (true) {
      S3Reply reply =
          client_.Try({.method = "POST", .key = key_, .query = {{"uploadId", id_}}, .body = body});
      reply.tries = tries.count();
      Status broken;
      if (reply.ok()) {
        // The status line is sent before the work is done: only the body tells how it went.
        reply.error = ParseS3Error(reply.http.body);
        reply.may_pass = S3MayPass(reply.http.status, reply.error.code);
        if (reply.error.code.empty()) {
          broken = ParseCompleted(reply.http.body);
          if (broken.ok()) return broken;
        }
      }
      const bool maybe_done = reply.unknown_outcome() || !broken.ok() ||
                              reply.error.code == "NoSuchUpload" || reply.http.status == 404;
      if (maybe_done) {
        const S3Reply head = client_.Send({.method = "HEAD", .key = key_});
        if (head.ok() && head.http.header(kMark) == mark_) return absl::OkStatus();
      }
      if (!reply.may_pass || !tries.Again()) {
        return broken.ok() ? client_.Failure("write", key_, reply)
                           : client_.Failure("write", key_, broken);
      }
    }
  }

  S3Client& client_;
  const std::string key_;
  const int64_t part_bytes_;
  const std::atomic<bool>* const stop_of_maker_ = StopScope::Current();
  std::string buffer_;  // the part that fills
  std::string id_;      // of the upload; empty until the first part is full
  std::string mark_;
  bool completed_ = false;
  std::atomic<bool> cancelled_ = false;

  std::mutex mutex_;  // of everything below
  std::condition_variable changed_;
  std::deque<Part> queue_;
  int unfinished_ = 0;  // parts in the queue or being sent
  bool stop_ = false;
  Status status_;                   // the first error
  std::vector<std::string> etags_;  // of all parts handed over; empty until they are there
  std::vector<std::thread> workers_;
};

}  // namespace

std::unique_ptr<ObjectWriter> StartS3Upload(S3Client& client, const std::string& key,
                                            int64_t expected_bytes) {
  return std::make_unique<S3Upload>(client, key, expected_bytes);
}

}  // namespace cvxq
