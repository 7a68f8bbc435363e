#include "service/metered_store.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace cvxq {
namespace {

const Status& StatusOf(const Status& status) { return status; }
template <typename T>
const Status& StatusOf(const StatusOr<T>& result) {
  return result.status();
}

}  // namespace

template <typename Call>
auto MeteredStore::Meter(const char* operation, const Call& call) {
  const absl::Time start = absl::Now();
  auto result = call();
  const absl::StatusCode code = StatusOf(result).code();
  const bool failed = std::ranges::find(kFailures, code) != std::end(kFailures);
  metrics_.StoreCall(operation, failed ? absl::StatusCodeToString(code) : "", absl::Now() - start);
  return result;
}

StatusOr<int64_t> MeteredStore::ClaimEpoch(const std::string& owner) {
  return Meter("claim_epoch", [&] { return store_.ClaimEpoch(owner); });
}

StatusOr<int64_t> MeteredStore::CurrentEpoch() {
  return Meter("current_epoch", [&] { return store_.CurrentEpoch(); });
}

StatusOr<int64_t> MeteredStore::RenewEpoch(int64_t epoch, const std::string& owner) {
  return Meter("renew_epoch", [&] { return store_.RenewEpoch(epoch, owner); });
}

StatusOr<CreatedLog> MeteredStore::CreateLog(int64_t epoch, const std::string& name,
                                             const std::string& request_id,
                                             const std::string& request_digest,
                                             const std::vector<std::string>& records) {
  return Meter("create_log",
               [&] { return store_.CreateLog(epoch, name, request_id, request_digest, records); });
}

StatusOr<int64_t> MeteredStore::Append(int64_t epoch, const std::string& name, int64_t after,
                                       const std::vector<std::string>& records) {
  return Meter("append", [&] { return store_.Append(epoch, name, after, records); });
}

StatusOr<std::vector<LogRecord>> MeteredStore::Read(const std::string& name, int64_t after,
                                                    int64_t limit) {
  return Meter("read", [&] { return store_.Read(name, after, limit); });
}

Status MeteredStore::Compact(int64_t epoch, const std::string& name, int64_t through,
                             const std::string& snapshot) {
  return Meter("compact", [&] { return store_.Compact(epoch, name, through, snapshot); });
}

Status MeteredStore::PutLog(int64_t epoch, const std::string& name, const std::string& request_id,
                            const std::string& request_digest, const LogRecord& snapshot) {
  return Meter("put_log",
               [&] { return store_.PutLog(epoch, name, request_id, request_digest, snapshot); });
}

Status MeteredStore::DeleteLog(int64_t epoch, const std::string& name) {
  return Meter("delete_log", [&] { return store_.DeleteLog(epoch, name); });
}

StatusOr<std::vector<std::string>> MeteredStore::ListLogs(const std::string& prefix,
                                                          const std::string& after, int64_t limit) {
  return Meter("list_logs", [&] { return store_.ListLogs(prefix, after, limit); });
}

}  // namespace cvxq
