// A StateStore in memory, with the promises of service/state_store.h but durability, and faults on
// demand: writes that happen while their reply is lost.
#ifndef CVXQ_TESTS_SERVICE_MEMORY_STORE_H_
#define CVXQ_TESTS_SERVICE_MEMORY_STORE_H_

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "service/state_store.h"

namespace cvxq {

class MemoryStore : public StateStore {
 public:
  // Of the writes to come every `n`-th is done and answered with kUnavailable; 0: none.
  void LoseReplies(int n) { lose_every_ = n; }
  // Puts these bytes in the place of a record.
  void Damage(const std::string& name, size_t index, std::string bytes) {
    logs_[name].records.at(index).bytes = std::move(bytes);
  }
  // As new.
  void Clear() {
    std::lock_guard lock(mutex_);
    epoch_ = 0;
    went_back_ = false;
    logs_.clear();
    remembered_ = {};
  }
  // Goes back to what it was when Remember was called, or to nothing.
  void Remember() {
    std::lock_guard lock(mutex_);
    remembered_ = {epoch_, logs_};
  }
  void GoBack() {
    std::lock_guard lock(mutex_);
    std::tie(epoch_, logs_) = remembered_;
    went_back_ = true;
  }
  int64_t size(const std::string& name) const {
    std::lock_guard lock(mutex_);
    const auto found = logs_.find(name);
    return found == logs_.end() ? 0 : static_cast<int64_t>(found->second.records.size());
  }

  StatusOr<int64_t> ClaimEpoch(const std::string&) override {
    std::lock_guard lock(mutex_);
    went_back_ = false;
    return epoch_ = ++newest_;
  }
  StatusOr<int64_t> RenewEpoch(int64_t epoch, const std::string& owner) override {
    {
      std::lock_guard lock(mutex_);
      if (epoch_ > epoch) return absl::FailedPreconditionError("an old epoch");
    }
    return ClaimEpoch(owner);
  }
  StatusOr<int64_t> CurrentEpoch() override {
    std::lock_guard lock(mutex_);
    if (went_back_) return absl::DataLossError("went back");
    return epoch_;
  }
  StatusOr<CreatedLog> CreateLog(int64_t epoch, const std::string& name,
                                 const std::string& request_id, const std::string& request_digest,
                                 const std::vector<std::string>& records) override {
    std::lock_guard lock(mutex_);
    CVXQ_RETURN_IF_ERROR(Fence(epoch));
    if (!request_id.empty()) {
      for (const auto& [known, log] : logs_) {
        if (log.request_id == request_id) return CreatedLog{known, false, log.digest};
      }
    }
    if (logs_.contains(name)) return absl::AlreadyExistsError(name);
    Log& log = logs_[name];
    log.request_id = request_id;
    log.digest = request_digest;
    for (const std::string& bytes : records) {
      log.records.push_back({static_cast<int64_t>(log.records.size()) + 1, bytes});
    }
    CVXQ_RETURN_IF_ERROR(Reply());
    return CreatedLog{name, true, request_digest};
  }
  StatusOr<int64_t> Append(int64_t epoch, const std::string& name, int64_t after,
                           const std::vector<std::string>& records) override {
    std::lock_guard lock(mutex_);
    CVXQ_RETURN_IF_ERROR(Fence(epoch));
    if (!logs_.contains(name)) return absl::NotFoundError(name);
    std::vector<LogRecord>& log = logs_[name].records;
    if (log.back().revision != after) return absl::AbortedError(name);
    for (const std::string& bytes : records) log.push_back({log.back().revision + 1, bytes});
    CVXQ_RETURN_IF_ERROR(Reply());
    return log.back().revision;
  }
  StatusOr<std::vector<LogRecord>> Read(const std::string& name, int64_t after,
                                        int64_t limit) override {
    std::lock_guard lock(mutex_);
    if (went_back_) return absl::UnavailableError("went back");
    if (!logs_.contains(name)) return absl::NotFoundError(name);
    const std::vector<LogRecord>& log = logs_[name].records;
    if (after > log.back().revision || (after > 0 && after + 1 < log.front().revision)) {
      return absl::OutOfRangeError(name);
    }
    std::vector<LogRecord> result;
    for (const LogRecord& record : log) {
      if (record.revision > after && static_cast<int64_t>(result.size()) < limit) {
        result.push_back(record);
      }
    }
    return result;
  }
  Status Compact(int64_t epoch, const std::string& name, int64_t through,
                 const std::string& snapshot) override {
    std::lock_guard lock(mutex_);
    CVXQ_RETURN_IF_ERROR(Fence(epoch));
    std::vector<LogRecord>& log = logs_[name].records;
    std::erase_if(log, [&](const LogRecord& record) { return record.revision <= through; });
    log.insert(log.begin(), {through, snapshot});
    return absl::OkStatus();
  }
  Status PutLog(int64_t epoch, const std::string& name, const std::string& request_id,
                const std::string& request_digest, const LogRecord& snapshot) override {
    std::lock_guard lock(mutex_);
    CVXQ_RETURN_IF_ERROR(Fence(epoch));
    CVXQ_RETURN_IF_ERROR(Reply());
    logs_[name] = {request_id, request_digest, {snapshot}};
    return absl::OkStatus();
  }
  Status DeleteLog(int64_t epoch, const std::string& name) override {
    std::lock_guard lock(mutex_);
    CVXQ_RETURN_IF_ERROR(Fence(epoch));
    logs_.erase(name);
    return absl::OkStatus();
  }
  StatusOr<std::vector<std::string>> ListLogs(const std::string& prefix, const std::string& after,
                                              int64_t limit) override {
    std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    for (const auto& [name, log] : logs_) {
      if (name.starts_with(prefix) && name > after && static_cast<int64_t>(names.size()) < limit) {
        names.push_back(name);
      }
    }
    return names;
  }

 private:
  struct Log {
    std::string request_id, digest;
    std::vector<LogRecord> records;
  };

  Status Fence(int64_t epoch) const {
    if (went_back_) return absl::UnavailableError("went back");
    return epoch == epoch_ ? absl::OkStatus() : absl::FailedPreconditionError("an old epoch");
  }
  Status Reply() {
    const bool lose = lose_every_ > 0 && ++writes_ % lose_every_ == 0;
    return lose ? absl::UnavailableError("the reply is lost") : absl::OkStatus();
  }

  mutable std::mutex mutex_;
  int64_t epoch_ = 0, newest_ = 0;  // as it says; ever given
  bool went_back_ = false;
  std::pair<int64_t, std::map<std::string, Log>> remembered_;
  int lose_every_ = 0, writes_ = 0;
  std::map<std::string, Log> logs_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_MEMORY_STORE_H_
