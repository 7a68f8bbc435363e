// What the coordinator tells Prometheus. Names follow its rules: base units, counters end in
// _total; nothing is labelled by job, so the number of series is bounded.
//
//   cvxq_build_info{version}                                  1
//   cvxq_jobs{state}                                          jobs that are kept
//   cvxq_job_duration_seconds{state}                          from creation to the end, by outcome
//   cvxq_job_attempts_total                                   work begun, again too
//   cvxq_rpc_duration_seconds{method,code}                    its _count is the number of calls
//   cvxq_watches                                              open watch streams and waiting calls
//   cvxq_leader                                               1 while this coordinator may write
#ifndef CVXQ_SERVICE_METRICS_H_
#define CVXQ_SERVICE_METRICS_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "service/job.h"

namespace cvxq {

// Thread-safe.
class Metrics {
 public:
  explicit Metrics(const std::string& version);

  void JobStarted() { attempts_.Increment(); }
  void JobEnded(Job::State state, absl::Duration duration);
  // `method`: one of the service's own; never text from a client.
  void Rpc(const std::string& method, const std::string& code, absl::Duration duration);
  void WatchOpened() { watches_.Increment(); }
  void WatchClosed() { watches_.Decrement(); }
  void SetLeader(bool leader) { leader_.Set(leader ? 1 : 0); }

  // All of it in the text format; `jobs` by state, as they are now.
  std::string Text(const std::map<Job::State, int64_t>& jobs);

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Gauge>& jobs_;
  prometheus::Family<prometheus::Histogram>&durations_, &rpcs_;
  prometheus::Counter& attempts_;
  prometheus::Gauge &watches_, &leader_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_METRICS_H_
