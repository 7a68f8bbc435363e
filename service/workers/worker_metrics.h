// What a worker tells Prometheus. Nothing is labelled by job: the number of series is constant.
//
//   cvxq_build_info{version}                      1
//   cvxq_worker_registered                        1 while a coordinator knows it
//   cvxq_worker_sessions_total                    how often it has registered
//   cvxq_worker_stages                            stages that it has now
//   cvxq_worker_steps_total{step,outcome}         steps that ended: done, failed, stopped
//   cvxq_worker_step_duration_seconds{step}       how long those that were done took
//   cvxq_worker_wave_bytes_total{direction}       sent to and received from other workers
//   process_*                                     service/metric_families.h
#ifndef CVXQ_SERVICE_WORKERS_WORKER_METRICS_H_
#define CVXQ_SERVICE_WORKERS_WORKER_METRICS_H_

#include <array>
#include <atomic>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "cvxq/v1/worker_service.pb.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace cvxq {

// Bytes of waves that went over connections between workers.
struct WaveBytes {
  std::atomic<int64_t> sent = 0, received = 0;
};

// Thread-safe.
class WorkerMetrics {
 public:
  explicit WorkerMetrics(const std::string& version);

  void Registered();
  void Unregistered() { registered_ = false; }
  bool registered() const { return registered_; }

  // All of it in the text format.
  std::string Text(const WaveBytes& waves) const;

 private:
  friend class StageMeter;
  friend class StepMeter;
  enum Step { kGradients, kMoments, kOrder, kSave, kCollect, kSteps };
  enum Outcome { kDone, kFailed, kStopped, kOutcomes };

  prometheus::Registry registry_;
  std::atomic<bool> registered_ = false;
  prometheus::Counter& sessions_;
  prometheus::Gauge& stages_;
  // All there from the start, so that rates are known from the first event on.
  std::array<std::array<prometheus::Counter*, kOutcomes>, kSteps> steps_;
  std::array<prometheus::Histogram*, kSteps> seconds_;
};

// Counts a stage while it lives. `metrics` may be nullptr.
class StageMeter {
 public:
  explicit StageMeter(WorkerMetrics* metrics);
  ~StageMeter();
  StageMeter(const StageMeter&) = delete;
  StageMeter& operator=(const StageMeter&) = delete;

 private:
  WorkerMetrics* const metrics_;
};

// Measures a step from here to End, which gives its argument back; one that never comes there has
// failed.
//
//   StepMeter meter(metrics, command);
//   CVXQ_RETURN_IF_ERROR(meter.End(CarryOut(command)));
class StepMeter {
 public:
  // `metrics` may be nullptr; a command that is no step is not counted.
  StepMeter(WorkerMetrics* metrics, const v1::Command& command);
  ~StepMeter();
  StepMeter(const StepMeter&) = delete;
  StepMeter& operator=(const StepMeter&) = delete;

  Status End(Status status);

 private:
  WorkerMetrics* const metrics_;
  int step_ = WorkerMetrics::kSteps;
  const absl::Time start_;
  WorkerMetrics::Outcome outcome_ = WorkerMetrics::kFailed;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_WORKER_METRICS_H_
