// Writes that wait for the disk at the same time share one flush: while one group is on its way to
// the disk, the next one gathers.
#ifndef CVXQ_SERVICE_STORE_WRITE_GROUP_H_
#define CVXQ_SERVICE_STORE_WRITE_GROUP_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "base/status.h"

namespace cvxq {

// Thread-safe.
class WriteGroup {
 public:
  using Write = std::function<Status()>;
  // Carries out the writes in order, durably, and gives the outcome of each.
  using Commit = std::function<std::vector<Status>(const std::vector<const Write*>&)>;

  // `commit` is called by one thread at a time, that of one of its writes, with at most `most`.
  WriteGroup(Commit commit, size_t most) : commit_(std::move(commit)), most_(most) {}

  // Returns when `write` has been committed, alone or with others; first come first served.
  Status Do(const Write& write);
  // Writes that wait for the group that is being committed.
  size_t waiting() const;

 private:
  struct Member {
    const Write* write;
    bool done = false;
    Status outcome;
  };

  const Commit commit_;
  const size_t most_;
  mutable std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::deque<Member*> queue_;
  bool committing_ = false;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORE_WRITE_GROUP_H_
