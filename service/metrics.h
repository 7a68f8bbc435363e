// What the coordinator tells Prometheus. Names follow its rules: base units, counters end in
// _total. Histograms are never labelled by job, gauges only by jobs that are being worked on, of
// which kMostJobs are told: the number of series is bounded, whatever clients do.
//
//   cvxq_build_info{version}                   1
//   cvxq_jobs{state}                           jobs that are kept
//   cvxq_damaged_jobs                          those whose log cannot be read
//   cvxq_job_duration_seconds{state}           from creation to the end, by outcome
//   cvxq_job_failures_total{reason}            why jobs failed (service/reasons.h)
//   cvxq_job_attempts_total                    work begun, again too
//   cvxq_job_progress_ratio{name}              of jobs that are being worked on: 0 to 1
//   cvxq_job_progress_timestamp_seconds{name}  when that was last told
//   cvxq_job_size_ratio{name}                  bytes as coded last over those asked for
//   cvxq_job_log2_lambda{name}                 slope of distortion over rate as settled last
//   cvxq_rpc_duration_seconds{method}          from a request to the end of its response
//   cvxq_rpcs_total{method,code}               requests answered
//   cvxq_watches                               open watch streams and waiting calls
//   cvxq_workers{usable}                       registered; false: of another numerics class
//   cvxq_stage_losses_total{cause}             stages that went to another worker
//   cvxq_store_duration_seconds{operation}     calls of the state store
//   cvxq_store_errors_total{operation,code}    those that failed
//   cvxq_leader                                1 while this coordinator may write
//   process_*                                  metric_families.h
#ifndef CVXQ_SERVICE_METRICS_H_
#define CVXQ_SERVICE_METRICS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "service/job.h"

namespace cvxq {

// What is asked for at the moment of a scrape.
struct MetricsView {
  std::map<Job::State, int64_t> jobs;
  std::vector<std::shared_ptr<const Job>> active;  // that are being worked on
  int64_t damaged_jobs = 0;
  int64_t usable_workers = 0, other_workers = 0;
  int64_t stages_lost = 0, stages_refused = 0;  // by their worker's end; by a worker that lacks
};

// Thread-safe.
class Metrics {
 public:
  static constexpr size_t kMostJobs = 64;  // as many as a coordinator works on at a time

  explicit Metrics(const std::string& version);

  void JobStarted() { attempts_.Increment(); }
  // `reason`: of a failure, one of service/reasons.h.
  void JobEnded(Job::State state, absl::Duration duration, const std::string& reason);
  // `method`: one of the service's own; never text from a client.
  void Rpc(const std::string& method, const std::string& code, absl::Duration duration);
  // `code`: empty, or of an error of the store itself.
  void StoreCall(const char* operation, const std::string& code, absl::Duration duration);
  void WatchOpened() { watches_.Increment(); }
  void WatchClosed() { watches_.Decrement(); }
  void SetLeader(bool leader) { leader_.Set(leader ? 1 : 0); }

  // All of it in the text format.
  std::string Text(const MetricsView& view) const;

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Histogram>&durations_, &rpc_seconds_, &store_seconds_;
  prometheus::Family<prometheus::Counter>&failures_, &rpcs_, &store_errors_;
  prometheus::Counter& attempts_;
  prometheus::Gauge &watches_, &leader_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_METRICS_H_
