#include "service/metrics.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "prometheus/text_serializer.h"
#include "service/metered_store.h"
#include "service/metric_families.h"
#include "service/reasons.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

// A job of a small model takes seconds, one of a large model days.
const prometheus::Histogram::BucketBoundaries kJobSeconds = {
    1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600};
const prometheus::Histogram::BucketBoundaries kCallSeconds = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30};

// Series that alerts look at are there from the start: a counter that begins with its first event
// would hide that one.
constexpr const char* kFailureReasons[] = {
    reason::kOptionsRefused,    reason::kFileNotFound,    reason::kFileDenied,
    reason::kFileDamaged,       reason::kFileUnsuitable,  reason::kOutputExists,
    reason::kSourceChanged,     reason::kOutOfResources,  reason::kWorkersGone,
    reason::kSourceUnsupported, reason::kTooManyAttempts, reason::kStorageUnavailable,
    reason::kInternal};
constexpr const char* kStoreOperations[] = {
    "claim_epoch", "current_epoch", "renew_epoch", "put_log",    "create_log",
    "append",      "read",          "compact",     "delete_log", "list_logs"};

template <typename Builder>
auto& Add(prometheus::Registry& registry, Builder&& builder, const char* name, const char* help) {
  return builder.Name(name).Help(help).Register(registry);
}

std::string NameOf(Job::State state) { return absl::AsciiStrToLower(Job::State_Name(state)); }

void AddJobCounts(const MetricsView& view, MetricFamilies& families) {
  std::vector<MetricValue> values;
  for (int number = Job::QUEUED; number <= Job::CANCELLED; ++number) {
    const auto state = static_cast<Job::State>(number);
    const auto found = view.jobs.find(state);
    const int64_t count = found == view.jobs.end() ? 0 : found->second;
    values.push_back({{{"state", NameOf(state)}}, static_cast<double>(count)});
  }
  AddGauges("cvxq_jobs", "Jobs that are kept.", values, families);
  AddGauges("cvxq_damaged_jobs", "Jobs whose log cannot be read.",
            {{.value = static_cast<double>(view.damaged_jobs)}}, families);
}

void AddActiveJobs(const MetricsView& view, MetricFamilies& families) {
  std::vector<MetricValue> ratio, told, size, log2_lambda;
  const size_t count = std::min(view.active.size(), Metrics::kMostJobs);
  for (size_t i = 0; i < count; ++i) {
    const v1::Progress& progress = view.active[i]->progress();
    const std::map<std::string, std::string> labels = {{"name", view.active[i]->name()}};
    const absl::Time time =
        FromTimestamp(progress.has_last_update_time() ? progress.last_update_time()
                                                      : view.active[i]->update_time());
    ratio.push_back({labels, progress.percent() / 100.0});
    told.push_back({labels, absl::ToDoubleSeconds(time - absl::UnixEpoch())});
    const auto figure = [&](const char* name, std::vector<MetricValue>& values) {
      const auto found = progress.metrics().find(name);
      if (found != progress.metrics().end()) values.push_back({labels, found->second});
    };
    figure("size_ratio", size);
    figure("log2_lambda", log2_lambda);
  }
  AddGauges("cvxq_job_progress_ratio", "How far a job that is being worked on has come.", ratio,
            families);
  AddGauges("cvxq_job_progress_timestamp_seconds", "When its progress was last told.", told,
            families);
  AddGauges("cvxq_job_size_ratio", "Bytes as they were coded last over the bytes asked for.", size,
            families);
  AddGauges("cvxq_job_log2_lambda", "Slope of distortion over rate as it was settled last.",
            log2_lambda, families);
}

void AddWorkers(const MetricsView& view, MetricFamilies& families) {
  AddGauges("cvxq_workers",
            "Workers that are registered; not usable: results would have other bits.",
            {{{{"usable", "true"}}, static_cast<double>(view.usable_workers)},
             {{{"usable", "false"}}, static_cast<double>(view.other_workers)}},
            families);
  AddCounters("cvxq_stage_losses_total",
              "Stages that went to another worker: theirs went away, or lacked something.",
              {{{{"cause", "worker_gone"}}, static_cast<double>(view.stages_lost)},
               {{{"cause", "worker_unfit"}}, static_cast<double>(view.stages_refused)}},
              families);
}

}  // namespace

Metrics::Metrics(const std::string& version)
    : durations_(Add(registry_, BuildHistogram(), "cvxq_job_duration_seconds",
                     "From the creation of a job to its end.")),
      rpc_seconds_(Add(registry_, BuildHistogram(), "cvxq_rpc_duration_seconds",
                       "From a request to the end of its response.")),
      store_seconds_(Add(registry_, BuildHistogram(), "cvxq_store_duration_seconds",
                         "Calls of the state store.")),
      failures_(Add(registry_, BuildCounter(), "cvxq_job_failures_total", "Why jobs failed.")),
      rpcs_(Add(registry_, BuildCounter(), "cvxq_rpcs_total", "Requests answered.")),
      store_errors_(Add(registry_, BuildCounter(), "cvxq_store_errors_total",
                        "Calls of the state store that failed.")),
      attempts_(Add(registry_, BuildCounter(), "cvxq_job_attempts_total",
                    "How often work on a job has begun.")
                    .Add({})),
      watches_(Add(registry_, BuildGauge(), "cvxq_watches", "Open watch streams and waiting calls.")
                   .Add({})),
      leader_(Add(registry_, BuildGauge(), "cvxq_leader", "1 while this coordinator may write.")
                  .Add({})) {
  Add(registry_, BuildGauge(), "cvxq_build_info", "The version that runs; always 1.")
      .Add({{"version", version}})
      .Set(1);
  for (const char* reason : kFailureReasons) failures_.Add({{"reason", reason}});
  for (const char* operation : kStoreOperations) {
    for (const absl::StatusCode code : MeteredStore::kFailures) {
      store_errors_.Add({{"operation", operation}, {"code", absl::StatusCodeToString(code)}});
    }
  }
}

void Metrics::JobEnded(Job::State state, absl::Duration duration, const std::string& reason) {
  durations_.Add({{"state", NameOf(state)}}, kJobSeconds).Observe(absl::ToDoubleSeconds(duration));
  if (state == Job::FAILED) failures_.Add({{"reason", reason}}).Increment();
}

void Metrics::Rpc(const std::string& method, const std::string& code, absl::Duration duration) {
  rpc_seconds_.Add({{"method", method}}, kCallSeconds).Observe(absl::ToDoubleSeconds(duration));
  rpcs_.Add({{"method", method}, {"code", code}}).Increment();
}

void Metrics::StoreCall(const char* operation, const std::string& code, absl::Duration duration) {
  store_seconds_.Add({{"operation", operation}}, kCallSeconds)
      .Observe(absl::ToDoubleSeconds(duration));
  if (!code.empty()) store_errors_.Add({{"operation", operation}, {"code", code}}).Increment();
}

std::string Metrics::Text(const MetricsView& view) const {
  MetricFamilies families = registry_.Collect();
  AddJobCounts(view, families);
  AddActiveJobs(view, families);
  AddWorkers(view, families);
  AddProcess(families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace cvxq
