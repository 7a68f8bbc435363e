#include "service/workers/worker_metrics.h"

#include "absl/time/clock.h"
#include "prometheus/text_serializer.h"
#include "service/metric_families.h"

namespace cvxq {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

constexpr const char* kStepNames[] = {"gradients", "moments", "order", "save", "collect"};
constexpr const char* kOutcomeNames[] = {"done", "failed", "stopped"};
// A step of a small model takes milliseconds, one of a large model hours.
const prometheus::Histogram::BucketBoundaries kStepSeconds = {
    0.01, 0.1, 1, 10, 60, 300, 1800, 7200, 6 * 3600, 24 * 3600};

}  // namespace

WorkerMetrics::WorkerMetrics(const std::string& version)
    : sessions_(BuildCounter()
                    .Name("cvxq_worker_sessions_total")
                    .Help("How often this worker has registered with a coordinator.")
                    .Register(registry_)
                    .Add({})),
      stages_(BuildGauge()
                  .Name("cvxq_worker_stages")
                  .Help("Stages that this worker has now.")
                  .Register(registry_)
                  .Add({})) {
  auto& steps = BuildCounter()
                    .Name("cvxq_worker_steps_total")
                    .Help("Steps of stages that have ended.")
                    .Register(registry_);
  auto& seconds = BuildHistogram()
                      .Name("cvxq_worker_step_duration_seconds")
                      .Help("How long steps took that were done.")
                      .Register(registry_);
  for (int step = 0; step < kSteps; ++step) {
    for (int outcome = 0; outcome < kOutcomes; ++outcome) {
      steps_[step][outcome] =
          &steps.Add({{"step", kStepNames[step]}, {"outcome", kOutcomeNames[outcome]}});
    }
    seconds_[step] = &seconds.Add({{"step", kStepNames[step]}}, kStepSeconds);
  }
  BuildGauge()
      .Name("cvxq_build_info")
      .Help("The version that runs; always 1.")
      .Register(registry_)
      .Add({{"version", version}})
      .Set(1);
}

void WorkerMetrics::Registered() {
  registered_ = true;
  sessions_.Increment();
}

std::string WorkerMetrics::Text(const WaveBytes& waves) const {
  MetricFamilies families = registry_.Collect();
  AddGauges("cvxq_worker_registered", "1 while a coordinator knows this worker.",
            {{.value = registered_ ? 1.0 : 0.0}}, families);
  AddCounters("cvxq_worker_wave_bytes_total", "Activations and gradients between workers.",
              {{{{"direction", "sent"}}, static_cast<double>(waves.sent)},
               {{{"direction", "received"}}, static_cast<double>(waves.received)}},
              families);
  AddProcess(families);
  return prometheus::TextSerializer().Serialize(families);
}

StageMeter::StageMeter(WorkerMetrics* metrics) : metrics_(metrics) {
  if (metrics_ != nullptr) metrics_->stages_.Increment();
}

StageMeter::~StageMeter() {
  if (metrics_ != nullptr) metrics_->stages_.Decrement();
}

StepMeter::StepMeter(WorkerMetrics* metrics, const v1::Command& command)
    : metrics_(metrics), start_(absl::Now()) {
  if (command.has_gradients()) step_ = WorkerMetrics::kGradients;
  if (command.has_moments()) step_ = WorkerMetrics::kMoments;
  if (command.has_order()) step_ = WorkerMetrics::kOrder;
  if (command.has_save()) step_ = WorkerMetrics::kSave;
  if (command.has_collect()) step_ = WorkerMetrics::kCollect;
}

StepMeter::~StepMeter() {
  if (metrics_ == nullptr || step_ == WorkerMetrics::kSteps) return;
  metrics_->steps_[step_][outcome_]->Increment();
  if (outcome_ != WorkerMetrics::kDone) return;
  metrics_->seconds_[step_]->Observe(absl::ToDoubleSeconds(absl::Now() - start_));
}

Status StepMeter::End(Status status) {
  const bool stopped = absl::IsCancelled(status) || absl::IsAborted(status);
  outcome_ = status.ok() ? WorkerMetrics::kDone
             : stopped   ? WorkerMetrics::kStopped
                         : WorkerMetrics::kFailed;
  return status;
}

}  // namespace cvxq
