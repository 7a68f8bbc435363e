#include "service/api/access.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "service/errors.h"
#include "service/names.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

constexpr size_t kShortestToken = 16;
constexpr size_t kMostBuckets = 10'000;

std::string Digest(const std::string& token) {
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), hash);
  return std::string(reinterpret_cast<const char*>(hash), sizeof(hash));
}

}  // namespace

Status Caller::CheckProject(const std::string& project) const {
  if (projects.empty() || std::find(projects.begin(), projects.end(), project) != projects.end()) {
    return absl::OkStatus();
  }
  return ServiceError(absl::StatusCode::kPermissionDenied, reason::kProjectDenied,
                      absl::StrCat("you may not use the project ", project));
}

StatusOr<Access> Access::Parse(const std::string& token_file) {
  Access access;
  access.open_ = false;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(token_file, '\n')) {
    ++number;
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0].starts_with('#')) continue;
    Entry entry;
    const bool all = words.size() == 3 && words[2] == "*";
    if (words.size() == 3 && !all) entry.caller.projects = absl::StrSplit(words[2], ',');
    const bool good = words.size() == 3 && words[1].size() >= kShortestToken &&
                      std::all_of(entry.caller.projects.begin(), entry.caller.projects.end(), IsId);
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number,
                       " of the token file is not NAME TOKEN PROJECT[,PROJECT...] "
                       "with a token of at least ",
                       kShortestToken, " characters"));
    }
    entry.caller.name = words[0];
    entry.digest = Digest(words[1]);
    access.entries_.push_back(std::move(entry));
  }
  if (access.entries_.empty()) return absl::InvalidArgumentError("the token file has no tokens");
  return access;
}

StatusOr<Caller> Access::Authenticate(const std::string& header, const std::string& peer) const {
  if (open_) return Caller{.name = peer};
  constexpr char kScheme[] = "bearer ";
  const std::string token =
      absl::StartsWithIgnoreCase(header, kScheme) ? header.substr(sizeof(kScheme) - 1) : "";
  const std::string digest = Digest(token);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {  // all of them, whichever matches
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = &entry;
  }
  if (found != nullptr && !token.empty()) return found->caller;
  return ServiceError(absl::StatusCode::kUnauthenticated, reason::kTokenInvalid,
                      header.empty() ? "a token is needed: authorization: Bearer TOKEN"
                                     : "the token is not known here");
}

Status RateLimit::Take(const std::string& caller, absl::Time now) {
  if (rate_ <= 0) return absl::OkStatus();
  std::lock_guard lock(mutex_);
  if (buckets_.size() >= kMostBuckets) buckets_.clear();  // forgetting is better than growing
  Bucket& bucket = buckets_.try_emplace(caller, Bucket{2 * rate_, now}).first->second;
  const double passed = absl::ToDoubleSeconds(std::max(now - bucket.updated, absl::ZeroDuration()));
  bucket.tokens = std::min(2 * rate_, bucket.tokens + passed * rate_);
  bucket.updated = now;
  if (bucket.tokens >= 1) {
    bucket.tokens -= 1;
    return absl::OkStatus();
  }
  google::rpc::RetryInfo retry;
  *retry.mutable_retry_delay() = ToDuration(absl::Seconds((1 - bucket.tokens) / rate_));
  google::rpc::QuotaFailure quota;
  auto* violation = quota.add_violations();
  violation->set_subject(absl::StrCat("caller ", caller));
  violation->set_description(absl::StrCat("more than ", rate_, " requests a second"));
  const Status error = ServiceError(absl::StatusCode::kResourceExhausted, reason::kRateLimited,
                                    violation->description() + "; slow down");
  return WithDetail(WithDetail(error, retry), quota);
}

}  // namespace cvxq
