#include "storage/s3/s3_client.h"

#include <algorithm>
#include <random>
#include <thread>

#include "base/interrupt.h"
#include "storage/errors.h"
#include "storage/s3/s3_xml.h"

namespace cvxq {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int64_t kLongestPauseMs = 10'000;
constexpr int64_t kLeastPatienceMs = 1'000, kPatienceMs = 20'000;

bool IsOneOf(const std::string& text, std::initializer_list<const char*> list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

absl::StatusCode CodeOf(const S3Reply& reply) {
  const std::string& code = reply.error.code;
  if (reply.may_pass) return absl::StatusCode::kUnavailable;
  if (IsOneOf(code, {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId"})) {
    return absl::StatusCode::kPermissionDenied;
  }
  if (code == "NoSuchUpload") return absl::StatusCode::kAborted;
  switch (reply.http.status) {
    case 401:
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 412:
      return absl::StatusCode::kFailedPrecondition;
    case 416:
      return absl::StatusCode::kOutOfRange;
    case 501:
      return absl::StatusCode::kUnimplemented;
    case 507:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kFailedPrecondition;
  }
}

// The region that the server wants instead of ours; empty if it does not say.
std::string OtherRegion(const S3Reply& reply, const std::string& ours) {
  const int status = reply.http.status;
  if (status != 301 && status != 307 && status != 400) return "";
  std::string region = reply.http.header("x-amz-bucket-region");
  if (region.empty()) region = reply.error.region;
  for (const char c : region) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-') return "";
  }
  return region == ours || region.size() > 64 ? "" : region;
}

const char* Advice(const S3Reply& reply, bool is_signed) {
  const std::string& code = reply.error.code;
  if (code == "RequestTimeTooSkewed") return "; set the clock of this machine";
  if (IsOneOf(code,
              {"SignatureDoesNotMatch", "InvalidAccessKeyId", "AuthorizationHeaderMalformed"})) {
    return "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION";
  }
  if (IsOneOf(code, {"ExpiredToken", "InvalidToken"})) {
    return "; get new credentials (AWS_SESSION_TOKEN)";
  }
  if (code == "NoSuchBucket") return "; check the bucket's name and AWS_ENDPOINT_URL";
  switch (reply.http.status) {
    case 301:
    case 307:
      return "; check AWS_REGION and AWS_ENDPOINT_URL";
    case 401:
    case 403:
      if (!is_signed) return "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
      return "; check the credentials and what they may do there";
    case 404:
      return "; check the address";
    case 412:
      return "; it was changed meanwhile, start again";
    default:
      return "";
  }
}

}  // namespace

bool S3MayPass(int status, const std::string& code) {
  switch (status) {
    case 408:
    case 409:
    case 429:
    case 500:
    case 502:
    case 503:
    case 504:
      return true;
    default:
      return IsOneOf(code, {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable",
                            "Throttling", "ThrottlingException", "RequestLimitExceeded"});
  }
}

bool Tries::Stopped() const { return Interrupted() || (cancelled_ != nullptr && *cancelled_); }

bool Tries::Again() {
  thread_local std::minstd_rand random{std::random_device{}()};
  const auto now = steady_clock::now();
  if (failures_++ == 0) first_failure_ = now;
  const auto end = first_failure_ + milliseconds(options_.deadline_ms);
  if (now >= end || Stopped()) return false;
  const int64_t most =
      std::min<int64_t>(options_.backoff_ms << std::min(failures_ - 1, 20), kLongestPauseMs);
  const auto wake = now + milliseconds(std::uniform_int_distribution<int64_t>(
                              0, std::max<int64_t>(most, 0))(random));
  while (steady_clock::now() < std::min(wake, end)) {
    if (Stopped()) return false;
    std::this_thread::sleep_for(std::min<steady_clock::duration>(
        std::min(wake, end) - steady_clock::now(), milliseconds(50)));
  }
  ++count_;
  return true;
}

S3Reply S3Client::Try(const S3Request& request) {
  RequestToSign unsigned_request{.method = request.method,
                                 .path = "/",
                                 .query = CanonicalQuery(request.query),
                                 .headers = request.headers,
                                 .body = request.body};
  std::string& path = unsigned_request.path;
  if (config_.bucket_in_path) path += config_.bucket;
  if (!request.key.empty()) {
    if (!path.ends_with('/')) path += '/';
    if (!config_.prefix.empty()) path += PercentEncode(config_.prefix, true) + "/";
    path += PercentEncode(request.key, true);
  }
  unsigned_request.headers.emplace_back("host", config_.host);

  HttpRequest http{.method = request.method,
                   .url = config_.endpoint + path,
                   .headers = unsigned_request.headers,
                   .body = request.body,
                   .into = request.into,
                   .largest_body = request.largest_body,
                   .patience_ms = std::clamp(options_.deadline_ms, kLeastPatienceMs, kPatienceMs),
                   .cancelled = request.cancelled};
  if (!unsigned_request.query.empty()) http.url += "?" + unsigned_request.query;
  if (!config_.credentials.empty()) {
    const NamedValues added =
        SignV4(unsigned_request, config_.credentials, config_.region, std::time(nullptr));
    http.headers.insert(http.headers.end(), added.begin(), added.end());
  }

  S3Reply reply{.http = http_.Send(http)};
  if (reply.http.exchange.code() == absl::StatusCode::kUnavailable) {
    reply.may_pass = true;
  } else if (reply.http.exchange.ok() && !reply.ok()) {
    reply.error = ParseS3Error(reply.http.body);
    reply.may_pass = S3MayPass(reply.http.status, reply.error.code);
  }
  return reply;
}

S3Reply S3Client::Send(const S3Request& request) {
  Tries tries(options_, request.cancelled);
  while (true) {
    S3Reply reply = Try(request);
    reply.tries = tries.count();
    if (!reply.may_pass || !tries.Again()) return reply;
  }
}

std::string S3Client::Address(const std::string& key) const {
  const std::string address = config_.address();
  return key.empty() ? address : address + "/" + key;
}

Status S3Client::Failure(const char* action, const std::string& key, const S3Reply& reply) const {
  const std::string what = absl::StrCat("cannot ", action, " ", Address(key), ": ");
  const std::string tries = reply.tries > 1 ? absl::StrCat(" (", reply.tries, " tries)") : "";
  const Status& exchange = reply.http.exchange;
  if (reply.may_pass && Interrupted()) {
    return absl::CancelledError(absl::StrCat(what, "interrupted"));
  }
  if (!exchange.ok()) {
    return Status(exchange.code(),
                  absl::StrCat(what, config_.endpoint, ": ", exchange.message(), tries,
                               reply.may_pass ? "; check the server and the network" : ""));
  }
  const std::string region = OtherRegion(reply, config_.region);
  if (!region.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, "the bucket is in the region ", region, "; set AWS_REGION=", region));
  }
  return Status(CodeOf(reply),
                absl::StrCat(what, "HTTP ", reply.http.status, reply.error.code.empty() ? "" : " ",
                             reply.error.code, tries, Advice(reply, !config_.credentials.empty())));
}

Status S3Client::Failure(const char* action, const std::string& key, const Status& why) const {
  return Status(why.code(), absl::StrCat("cannot ", action, " ", Address(key), ": ", why.message(),
                                         "; check that ", config_.endpoint, " is an S3 server"));
}

}  // namespace cvxq
