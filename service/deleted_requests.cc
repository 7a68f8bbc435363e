#include "service/deleted_requests.h"

#include <set>

#include "cvxq/v1/job_log.pb.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

std::string LogName(const std::string& id) { return kDeletedPrefix + id; }

std::string Serialize(const DeletedRequest& request) {
  v1::JobRecord record;
  *record.mutable_time() = ToTimestamp(request.time);
  record.mutable_deleted()->set_name(request.job);
  record.mutable_deleted()->set_request_id(request.id);
  record.mutable_deleted()->set_request_digest(request.digest);
  return record.SerializeAsString();
}

}  // namespace

StatusOr<std::vector<std::string>> AllLogs(StateStore& store, const std::string& prefix) {
  std::vector<std::string> all;
  for (;;) {
    CVXQ_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                          store.ListLogs(prefix, all.empty() ? "" : all.back(), 1000));
    if (names.empty()) return all;
    all.insert(all.end(), names.begin(), names.end());
  }
}

Status DeletedRequests::Load(int64_t epoch, absl::Time now) {
  CVXQ_ASSIGN_OR_RETURN(const std::vector<std::string> names, AllLogs(store_, kDeletedPrefix));
  for (const std::string& name : names) {
    const StatusOr<std::vector<LogRecord>> records = store_.Read(name, 0, 1);
    if (absl::IsDataLoss(records.status())) continue;
    CVXQ_RETURN_IF_ERROR(records.status());
    v1::JobRecord record;
    if (records->empty() || !record.ParseFromString((*records)[0].bytes)) continue;
    const v1::JobRecord::Deleted& deleted = record.deleted();
    std::lock_guard lock(mutex_);
    requests_[deleted.request_id()] = {deleted.request_id(), deleted.request_digest(),
                                       deleted.name(), FromTimestamp(record.time())};
  }
  return DropOld(epoch, now);
}

std::optional<DeletedRequest> DeletedRequests::Find(const std::string& id, absl::Time now) const {
  std::lock_guard lock(mutex_);
  const auto found = requests_.find(id);
  if (found == requests_.end() || now >= found->second.time + kRequestIdLife) return std::nullopt;
  return found->second;
}

Status DeletedRequests::Add(int64_t epoch, const DeletedRequest& request) {
  CVXQ_RETURN_IF_ERROR(DropOld(epoch, request.time));
  const Status status =
      store_.CreateLog(epoch, LogName(request.id), "", "", {Serialize(request)}).status();
  if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  std::lock_guard lock(mutex_);
  requests_.emplace(request.id, request);
  return absl::OkStatus();
}

Status DeletedRequests::DropOld(int64_t epoch, absl::Time now) {
  std::vector<std::string> old;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, request] : requests_) {
      if (now >= request.time + kRequestIdLife) old.push_back(id);
    }
  }
  for (const std::string& id : old) {
    CVXQ_RETURN_IF_ERROR(store_.DeleteLog(epoch, LogName(id)));
    std::lock_guard lock(mutex_);
    requests_.erase(id);
  }
  return absl::OkStatus();
}

Status DeletedRequests::Restore(int64_t epoch) {
  std::map<std::string, DeletedRequest> missing;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, request] : requests_) missing[LogName(id)] = request;
  }
  CVXQ_ASSIGN_OR_RETURN(const std::vector<std::string> names, AllLogs(store_, kDeletedPrefix));
  for (const std::string& name : names) {
    if (missing.erase(name) == 0) CVXQ_RETURN_IF_ERROR(store_.DeleteLog(epoch, name));
  }
  for (const auto& [name, request] : missing) {
    CVXQ_RETURN_IF_ERROR(store_.PutLog(epoch, name, "", "", {1, Serialize(request)}));
  }
  return absl::OkStatus();
}

}  // namespace cvxq
