// Watchers that disconnect all the time, over gRPC, while their jobs go on. For tests and for
// bench/service.cc.
#ifndef CVXQ_TESTS_SERVICE_WATCH_STORM_H_
#define CVXQ_TESTS_SERVICE_WATCH_STORM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

struct WatchStormOptions {
  int watchers = 20, disconnects = 10;  // disconnects of each
  int jobs = 4;                         // that they watch, in turns
  double events_per_second = 20;        // of each job; 0: as fast as the store takes them
  uint64_t seed = 1;
};

struct WatchStormReport {
  int64_t events = 0;              // that all watchers got
  int64_t lost = 0, repeated = 0;  // revisions skipped, or not above the last one that came
  int64_t compacted = 0;           // times that a watcher was told to begin anew
  std::vector<double> lags;        // seconds from an event's time to its arrival, ascending, of
                                   // watchers that had caught up
  double seconds = 0;
};

// Runs a coordinator with its server in this process, on the store at `address`. Jobs report until
// all watchers have disconnected so often, each after a random number of events and from then on
// resuming after the last one; then the jobs end, and so do the watches. Jobs use `folder`.
StatusOr<WatchStormReport> RunWatchStorm(const std::string& address, const std::string& folder,
                                         const WatchStormOptions& options);

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_WATCH_STORM_H_
