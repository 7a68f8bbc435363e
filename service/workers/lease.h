// How long the coordinator and a worker wait for each other. The worker gives up first: what it was
// given is given to another only when it does no longer work on it.
#ifndef CVXQ_SERVICE_WORKERS_LEASE_H_
#define CVXQ_SERVICE_WORKERS_LEASE_H_

#include <atomic>
#include <chrono>

namespace cvxq {

inline constexpr std::chrono::milliseconds kBeat{1000};
inline constexpr std::chrono::milliseconds kCoordinatorPatience{5000};
inline constexpr std::chrono::milliseconds kWorkerPatience{4000};

// When the other side was heard last, by this machine's steady clock. Thread-safe.
class Lease {
 public:
  void Beat() { heard_ = Now(); }
  std::chrono::nanoseconds silence() const { return std::chrono::nanoseconds(Now() - heard_); }

 private:
  static int64_t Now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

  std::atomic<int64_t> heard_ = Now();
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_LEASE_H_
