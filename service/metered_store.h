// A state store whose calls are told to the metrics: how long each took, and which failed for the
// store's own reasons (not for what the caller asked, such as a name that is taken).
#ifndef CVXQ_SERVICE_METERED_STORE_H_
#define CVXQ_SERVICE_METERED_STORE_H_

#include "service/metrics.h"
#include "service/state_store.h"

namespace cvxq {

class MeteredStore : public StateStore {
 public:
  // Errors that are the store's own.
  static constexpr absl::StatusCode kFailures[] = {
      absl::StatusCode::kUnavailable, absl::StatusCode::kResourceExhausted,
      absl::StatusCode::kDataLoss, absl::StatusCode::kInternal};

  // Both outlive it.
  MeteredStore(StateStore& store, Metrics& metrics) : store_(store), metrics_(metrics) {}

  StatusOr<int64_t> ClaimEpoch(const std::string& owner) override;
  StatusOr<int64_t> CurrentEpoch() override;
  StatusOr<int64_t> RenewEpoch(int64_t epoch, const std::string& owner) override;
  StatusOr<CreatedLog> CreateLog(int64_t epoch, const std::string& name,
                                 const std::string& request_id, const std::string& request_digest,
                                 const std::vector<std::string>& records) override;
  StatusOr<int64_t> Append(int64_t epoch, const std::string& name, int64_t after,
                           const std::vector<std::string>& records) override;
  StatusOr<std::vector<LogRecord>> Read(const std::string& name, int64_t after,
                                        int64_t limit) override;
  Status Compact(int64_t epoch, const std::string& name, int64_t through,
                 const std::string& snapshot) override;
  Status PutLog(int64_t epoch, const std::string& name, const std::string& request_id,
                const std::string& request_digest, const LogRecord& snapshot) override;
  Status DeleteLog(int64_t epoch, const std::string& name) override;
  StatusOr<std::vector<std::string>> ListLogs(const std::string& prefix, const std::string& after,
                                              int64_t limit) override;

 private:
  template <typename Call>
  auto Meter(const char* operation, const Call& call);

  StateStore& store_;
  Metrics& metrics_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_METERED_STORE_H_
