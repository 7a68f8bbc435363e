// What is told to Prometheus: how many series there can be, and that they follow what happens.
#include "service/metrics.h"

#include <algorithm>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/metered_store.h"
#include "service/timestamps.h"
#include "service/workers/worker_metrics.h"
#include "tests/service/memory_store.h"

namespace cvxq {
namespace {

using testing::HasSubstr;
using testing::Not;

int64_t Series(const std::string& text) {
  std::istringstream lines(text);
  int64_t count = 0;
  for (std::string line; std::getline(lines, line);) count += line.empty() || line[0] != '#';
  return count;
}

std::shared_ptr<const Job> Working(int number, double size_ratio) {
  Job job;
  job.set_name(absl::StrCat("projects/p/quantizeModelJobs/j", number));
  job.set_state(Job::RUNNING);
  job.mutable_progress()->set_percent(40);
  *job.mutable_progress()->mutable_last_update_time() =
      ToTimestamp(absl::UnixEpoch() + absl::Seconds(1'700'000'000 + number));
  if (size_ratio > 0) {
    (*job.mutable_progress()->mutable_metrics())["size_ratio"] = size_ratio;
    (*job.mutable_progress()->mutable_metrics())["log2_lambda"] = -20.5;
    (*job.mutable_progress()->mutable_metrics())["another"] = 1;
  }
  return std::make_shared<const Job>(std::move(job));
}

// All that a coordinator can be made to tell: 11 methods that end in all 17 ways, every reason and
// outcome, every error of the store, and 100 jobs that are worked on at the same time.
TEST(MetricsTest, SeriesAreBounded) {
  Metrics metrics("1");
  MetricsView view;
  for (int number = 0; number < 100; ++number) {
    metrics.JobStarted();
    view.active.push_back(Working(number, 1));
    view.jobs[static_cast<Job::State>(1 + number % 8)] += 1;
  }
  for (const Job::State state : {Job::SUCCEEDED, Job::FAILED, Job::CANCELLED}) {
    for (int reason = 0; reason < 40; ++reason) {
      metrics.JobEnded(state, absl::Seconds(5), absl::StrCat("REASON_", reason));
    }
  }
  for (int method = 0; method < 11; ++method) {
    for (int code = 0; code <= 16; ++code) {
      const std::string name = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
      metrics.Rpc(absl::StrCat("Method", method), name, absl::Seconds(1));
    }
  }
  for (const char* operation : {"claim_epoch", "current_epoch", "create_log", "append", "read",
                                "compact", "delete_log", "list_logs"}) {
    for (const absl::StatusCode code : MeteredStore::kFailures) {
      metrics.StoreCall(operation, absl::StatusCodeToString(code), absl::Seconds(1));
    }
  }
  const std::string text = metrics.Text(view);
  EXPECT_LE(Series(text), 1000);
  EXPECT_GE(Series(text), 500);  // all of that is there
  // Jobs have gauges alone, and no more of them than are told.
  std::istringstream lines(text);
  int64_t told = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("quantizeModelJobs") == std::string::npos) continue;
    EXPECT_EQ(line.find("_bucket"), std::string::npos) << line;
    told += line.starts_with("cvxq_job_progress_ratio");
  }
  EXPECT_EQ(told, 64);
}

TEST(MetricsTest, JobsAreToldWhileTheyAreWorkedOn) {
  Metrics metrics("1");
  MetricsView view;
  view.active = {Working(7, 0), Working(8, 1.02)};
  view.usable_workers = 3;
  view.other_workers = 1;
  view.stages_lost = 5;
  const std::string text = metrics.Text(view);
  EXPECT_THAT(text,
              HasSubstr("cvxq_job_progress_ratio{name=\"projects/p/quantizeModelJobs/j7\"} 0.4\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_job_progress_timestamp_seconds{name=\"projects/p/"
                              "quantizeModelJobs/j7\"} 1700000007\n"));
  EXPECT_THAT(text,
              Not(HasSubstr("cvxq_job_size_ratio{name=\"projects/p/quantizeModelJobs/j7\"}")));
  EXPECT_THAT(text,
              HasSubstr("cvxq_job_size_ratio{name=\"projects/p/quantizeModelJobs/j8\"} 1.02\n"));
  EXPECT_THAT(text,
              HasSubstr("cvxq_job_log2_lambda{name=\"projects/p/quantizeModelJobs/j8\"} -20.5\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_workers{usable=\"true\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_workers{usable=\"false\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_stage_losses_total{cause=\"worker_gone\"} 5\n"));
  EXPECT_THAT(metrics.Text({}), Not(HasSubstr("cvxq_job_progress_ratio")));
}

TEST(MetricsTest, FailuresAreCountedFromTheFirstOn) {
  Metrics metrics("1");
  EXPECT_THAT(metrics.Text({}), HasSubstr("cvxq_job_failures_total{reason=\"INTERNAL\"} 0\n"));
  metrics.JobEnded(Job::FAILED, absl::Seconds(1), "INTERNAL");
  metrics.JobEnded(Job::CANCELLED, absl::Seconds(1), "JOB_CANCELLED");
  const std::string text = metrics.Text({});
  EXPECT_THAT(text, HasSubstr("cvxq_job_failures_total{reason=\"INTERNAL\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("JOB_CANCELLED")));
}

TEST(MetricsTest, TheStoresOwnErrorsAreCounted) {
  MemoryStore memory;
  Metrics metrics("1");
  MeteredStore store(memory, metrics);
  const int64_t epoch = *store.ClaimEpoch("me");
  memory.LoseReplies(2);
  EXPECT_TRUE(store.CreateLog(epoch, "a", "", "", {"1"}).ok());
  EXPECT_TRUE(absl::IsUnavailable(store.Append(epoch, "a", 1, {"2"}).status()));
  memory.LoseReplies(0);
  EXPECT_TRUE(absl::IsAborted(store.Append(epoch, "a", 1, {"2"}).status()));
  EXPECT_EQ(store.Read("a", 0, 10)->size(), 2u);
  const std::string text = metrics.Text({});
  EXPECT_THAT(text,
              HasSubstr("cvxq_store_errors_total{code=\"UNAVAILABLE\",operation=\"append\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("cvxq_store_errors_total{code=\"INTERNAL\",operation=\"append\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_store_duration_seconds_count{operation=\"append\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_store_duration_seconds_count{operation=\"read\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("ABORTED")));
}

TEST(WorkerMetricsTest, StagesAndStepsAreCounted) {
  WorkerMetrics metrics("1");
  WaveBytes waves;
  const int64_t before = Series(metrics.Text(waves));
  EXPECT_THAT(metrics.Text(waves), HasSubstr("cvxq_worker_registered 0\n"));
  metrics.Registered();
  waves.sent = 5;
  v1::Command order, start;
  order.mutable_order();
  start.mutable_start();
  {
    const StageMeter stage(&metrics);
    EXPECT_THAT(metrics.Text(waves), HasSubstr("cvxq_worker_stages 1\n"));
    for (const Status& status : {absl::OkStatus(), absl::CancelledError("x"),
                                 absl::DataLossError("y"), absl::OkStatus()}) {
      StepMeter step(&metrics, order);
      EXPECT_EQ(step.End(status), status);
    }
    StepMeter none(&metrics, start), nobody(nullptr, order);
    StepMeter thrown(&metrics, order);
  }
  const std::string text = metrics.Text(waves);
  EXPECT_THAT(text, HasSubstr("cvxq_worker_registered 1\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_sessions_total 1\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_stages 0\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_steps_total{outcome=\"done\",step=\"order\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_steps_total{outcome=\"stopped\",step=\"order\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_steps_total{outcome=\"failed\",step=\"order\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_step_duration_seconds_count{step=\"order\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("cvxq_worker_wave_bytes_total{direction=\"sent\"} 5\n"));
  EXPECT_EQ(Series(text), before);  // no series comes with what happens
  EXPECT_LE(before, 100);
}

}  // namespace
}  // namespace cvxq
