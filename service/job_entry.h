// One job of a JobStore. For the files of JobStore alone.
#ifndef CVXQ_SERVICE_JOB_ENTRY_H_
#define CVXQ_SERVICE_JOB_ENTRY_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "service/job_store.h"

namespace cvxq {

struct JobStore::Entry {
  std::string name;
  std::string request_id, request_digest;  // of the request that made it
  std::mutex write;                        // one writer at a time; held while the store works
  int64_t first_revision = 1;              // of the log; guarded by `write`
  bool deleted = false;                    // guarded by `write`

  mutable std::mutex read;  // guards the rest; never held while anything waits
  std::shared_ptr<const Job> job;
  std::vector<std::shared_ptr<WatchQueue>> watches;

  std::shared_ptr<const Job> Current() const {
    std::lock_guard lock(read);
    return job;
  }
};

// The job as one record, which stands for all before it.
inline v1::JobRecord SnapshotRecord(const Job& job, const std::string& request_id,
                                    const std::string& request_digest) {
  v1::JobRecord record;
  *record.mutable_time() = job.update_time();
  *record.mutable_snapshot()->mutable_job() = job;
  record.mutable_snapshot()->set_request_id(request_id);
  record.mutable_snapshot()->set_request_digest(request_digest);
  return record;
}

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_ENTRY_H_
