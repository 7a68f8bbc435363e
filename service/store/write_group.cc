#include "service/store/write_group.h"

#include <algorithm>

namespace cvxq {

Status WriteGroup::Do(const Write& write) {
  Member member = {.write = &write};
  std::unique_lock lock(mutex_);
  queue_.push_back(&member);
  changed_.wait(lock, [&] { return member.done || !committing_; });
  while (!member.done) {  // whoever finds nobody at work commits for all that wait
    committing_ = true;
    const auto end = queue_.begin() + static_cast<ptrdiff_t>(std::min(queue_.size(), most_));
    const std::vector<Member*> group(queue_.begin(), end);
    queue_.erase(queue_.begin(), end);
    lock.unlock();
    std::vector<const Write*> writes;
    for (const Member* one : group) writes.push_back(one->write);
    std::vector<Status> outcomes = commit_(writes);
    lock.lock();
    for (size_t i = 0; i < group.size(); ++i) {
      group[i]->outcome = std::move(outcomes[i]);
      group[i]->done = true;
    }
    committing_ = false;
    changed_.notify_all();
    changed_.wait(lock, [&] { return member.done || !committing_; });
  }
  return member.outcome;
}

size_t WriteGroup::waiting() const {
  std::lock_guard lock(mutex_);
  return queue_.size();
}

}  // namespace cvxq
