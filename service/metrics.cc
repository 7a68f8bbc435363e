#include "service/metrics.h"

#include "absl/strings/ascii.h"
#include "prometheus/text_serializer.h"

namespace cvxq {
namespace {

// A job of a small model takes seconds, one of a large model days.
const prometheus::Histogram::BucketBoundaries kJobSeconds = {
    1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600};
const prometheus::Histogram::BucketBoundaries kRpcSeconds = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30};

template <typename Builder>
auto& Add(prometheus::Registry& registry, Builder&& builder, const char* name, const char* help) {
  return builder.Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics(const std::string& version)
    : jobs_(Add(registry_, prometheus::BuildGauge(), "cvxq_jobs", "Jobs that are kept.")),
      durations_(Add(registry_, prometheus::BuildHistogram(), "cvxq_job_duration_seconds",
                     "From the creation of a job to its end.")),
      rpcs_(Add(registry_, prometheus::BuildHistogram(), "cvxq_rpc_duration_seconds",
                "From a request to the end of its response.")),
      attempts_(Add(registry_, prometheus::BuildCounter(), "cvxq_job_attempts_total",
                    "How often work on a job has begun.")
                    .Add({})),
      watches_(Add(registry_, prometheus::BuildGauge(), "cvxq_watches",
                   "Open watch streams and waiting calls.")
                   .Add({})),
      leader_(Add(registry_, prometheus::BuildGauge(), "cvxq_leader",
                  "1 while this coordinator may write.")
                  .Add({})) {
  Add(registry_, prometheus::BuildGauge(), "cvxq_build_info", "The version that runs; always 1.")
      .Add({{"version", version}})
      .Set(1);
}

void Metrics::JobEnded(Job::State state, absl::Duration duration) {
  durations_.Add({{"state", absl::AsciiStrToLower(Job::State_Name(state))}}, kJobSeconds)
      .Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::Rpc(const std::string& method, const std::string& code, absl::Duration duration) {
  rpcs_.Add({{"method", method}, {"code", code}}, kRpcSeconds)
      .Observe(absl::ToDoubleSeconds(duration));
}

std::string Metrics::Text(const std::map<Job::State, int64_t>& jobs) {
  for (int state = Job::QUEUED; state <= Job::CANCELLED; ++state) {
    const auto found = jobs.find(static_cast<Job::State>(state));
    const std::string name = absl::AsciiStrToLower(Job::State_Name(static_cast<Job::State>(state)));
    jobs_.Add({{"state", name}}).Set(found == jobs.end() ? 0 : static_cast<double>(found->second));
  }
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace cvxq
