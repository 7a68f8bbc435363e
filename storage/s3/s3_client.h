// Requests to one bucket: signed, sent, tried again while that may help, and errors in one line.
//
// What may pass: broken and refused connections, cut answers, HTTP 408, 409, 429, 500, 502, 503,
// 504 and the error codes that stand for them. Between tries a pause that is random from 0 to a
// limit that doubles ("full jitter"), so that many clients do not come back at once.
#ifndef CVXQ_STORAGE_S3_S3_CLIENT_H_
#define CVXQ_STORAGE_S3_S3_CLIENT_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "storage/object_store.h"
#include "storage/s3/http.h"
#include "storage/s3/s3_config.h"
#include "storage/s3/s3_xml.h"

namespace cvxq {

struct S3Request {
  std::string method;
  std::string key;  // within the address that was opened; empty: the bucket itself
  NamedValues query, headers;
  std::string_view body;
  std::span<std::byte> into;
  int64_t largest_body = int64_t{1} << 20;
  const std::atomic<bool>* cancelled = nullptr;
};

struct S3Reply {
  HttpAnswer http;
  S3Error error;          // of answers above 299
  int tries = 1;          // so far, for the message
  bool may_pass = false;  // another try may go better

  bool ok() const { return http.exchange.ok() && http.status >= 200 && http.status <= 299; }
  // Whether the request may have been done although it looks failed.
  bool unknown_outcome() const {
    return http.exchange.code() == absl::StatusCode::kUnavailable || http.status >= 500;
  }
};

// Whether an answer with this status and error code may be better next time.
bool S3MayPass(int status, const std::string& code);

// The tries of one request. One thread.
class Tries {
 public:
  Tries(const ObjectStoreOptions& options, const std::atomic<bool>* cancelled)
      : options_(options), cancelled_(cancelled) {}
  // After a failure that may pass: pauses, then true; false when the deadline has passed since the
  // first failure after the last progress, on cancellation, or when the process is to stop.
  bool Again();
  void Progressed() { failures_ = 0; }
  int count() const { return count_; }

 private:
  bool Stopped() const;

  const ObjectStoreOptions options_;
  const std::atomic<bool>* cancelled_;
  int count_ = 1, failures_ = 0;
  std::chrono::steady_clock::time_point first_failure_;
};

// Thread-safe.
class S3Client {
 public:
  S3Client(S3Config config, const ObjectStoreOptions& options)
      : config_(std::move(config)), options_(options), http_(config_.ca_bundle) {}

  const S3Config& config() const { return config_; }
  const ObjectStoreOptions& options() const { return options_; }

  // One try.
  S3Reply Try(const S3Request& request);
  // Tries until it succeeds or fails for good.
  S3Reply Send(const S3Request& request);

  // The line for a reply that is no success: "cannot ACTION s3://...: ...".
  Status Failure(const char* action, const std::string& key, const S3Reply& reply) const;
  // The same for an answer that makes no sense: `why` says why not.
  Status Failure(const char* action, const std::string& key, const Status& why) const;

 private:
  std::string Address(const std::string& key) const;

  const S3Config config_;
  const ObjectStoreOptions options_;
  HttpClient http_;
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_S3_CLIENT_H_
