#include "service/coordinator.h"

#include <algorithm>
#include <vector>

#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "google/rpc/error_details.pb.h"
#include "service/errors.h"
#include "service/job_spec.h"
#include "service/log.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

// Reports that decide something: they wait for the store, others may be lost.
bool Decides(JobInput::Kind kind) {
  return kind != JobInput::Kind::kProgress && kind != JobInput::Kind::kLog;
}

Status QuotaError(const std::string& subject, const std::string& message) {
  google::rpc::QuotaFailure quota;
  auto* violation = quota.add_violations();
  violation->set_subject(subject);
  violation->set_description(message);
  return WithDetail(
      ServiceError(absl::StatusCode::kResourceExhausted, reason::kTooManyJobs, message), quota);
}

}  // namespace

StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(StateStore& store, JobExecutor& executor,
                                                          const StoragePolicy& policy,
                                                          Metrics& metrics,
                                                          CoordinatorOptions options) {
  std::unique_ptr<Coordinator> coordinator(new Coordinator(executor, policy, metrics, options));
  CVXQ_ASSIGN_OR_RETURN(coordinator->jobs_, JobStore::Open(store, options.jobs));
  CVXQ_RETURN_IF_ERROR(coordinator->Recover());
  metrics.SetLeader(true);
  return coordinator;
}

Coordinator::~Coordinator() { Shutdown(); }

// Hands out all jobs that have not ended, oldest first.
Status Coordinator::Recover() {
  for (const auto& [name, status] : jobs_->damaged()) {
    Log(LogLevel::kError, std::string(status.message()), {{"job", name}});
  }
  JobPage page = jobs_->List("", "", static_cast<size_t>(-1),
                             [](const Job& job) { return !IsTerminal(job.state()); });
  std::sort(page.jobs.begin(), page.jobs.end(), [](const auto& a, const auto& b) {
    return FromTimestamp(a->create_time()) < FromTimestamp(b->create_time());
  });
  for (const auto& job : page.jobs) {
    Failpoint("coordinator-recovering");
    CVXQ_RETURN_IF_ERROR(Apply(job->name(), {.kind = JobInput::Kind::kRecover}).status());
  }
  Log(LogLevel::kInfo, "coordinator started",
      {{"epoch", absl::StrCat(jobs_->epoch())}, {"unfinished", absl::StrCat(page.jobs.size())}});
  return absl::OkStatus();
}

Status Coordinator::CheckRequest(const JobRequest& request) const {
  CVXQ_RETURN_IF_ERROR(ValidateJob(request.job));
  return ToQuantizeOptions(request.job, policy_).status();
}

StatusOr<std::shared_ptr<const Job>> Coordinator::Create(const JobRequest& request) {
  CVXQ_RETURN_IF_ERROR(CheckRequest(request));
  const std::map<Job::State, int64_t> counts = jobs_->CountByState();
  int64_t active = 0, kept = 0;
  for (const auto& [state, count] : counts) {
    kept += count;
    if (!IsTerminal(state)) active += count;
  }
  if (active >= options_.most_active) {
    return QuotaError("active jobs", absl::StrCat(active,
                                                  " jobs wait or run already, as many as "
                                                  "this server takes; try again later"));
  }
  if (kept >= options_.most_kept) {
    return QuotaError("kept jobs", absl::StrCat(kept,
                                                " jobs are kept, as many as this server "
                                                "takes; delete some that have ended"));
  }
  Failpoint("job-before-create");
  CVXQ_ASSIGN_OR_RETURN(const CreatedJob created,
                        jobs_->Create(request.job, request.request_id, request.digest));
  Failpoint("job-created");
  if (!created.actions.empty()) {
    Log(LogLevel::kInfo, "job accepted", {{"job", created.job->name()}});
    executor_.Start(*created.job, *this);
  }
  return created.job;
}

StatusOr<Job> Coordinator::Validate(const JobRequest& request) {
  CVXQ_RETURN_IF_ERROR(CheckRequest(request));
  CVXQ_RETURN_IF_ERROR(executor_.Check(request.job));
  return CreateJob(request.job, options_.jobs.clock()).job;
}

StatusOr<Job> Coordinator::Cancel(const std::string& name) {
  return Apply(name, {.kind = JobInput::Kind::kCancel});
}

Status Coordinator::Delete(const std::string& name, const std::string& etag) {
  CVXQ_RETURN_IF_ERROR(jobs_->Delete(name, etag));
  Log(LogLevel::kInfo, "job deleted", {{"job", name}});
  return absl::OkStatus();
}

StatusOr<Job> Coordinator::Report(const std::string& name, const JobInput& input) {
  absl::Duration pause = absl::Milliseconds(50);
  for (;;) {
    StatusOr<Job> job = Apply(name, input);
    const bool may_pass = absl::IsUnavailable(job.status()) &&
                          ReasonOf(job.status()) != reason::kNotLeader && Decides(input.kind);
    if (!may_pass || stopping_) return job;
    absl::SleepFor(pause);
    pause = std::min(pause * 2, absl::Seconds(1));
  }
}

StatusOr<Job> Coordinator::Apply(const std::string& name, const JobInput& input) {
  Failpoint("job-before-append");
  CVXQ_ASSIGN_OR_RETURN(const JobStep step, jobs_->Apply(name, input));
  Failpoint("job-appended");
  if (!step.records.empty() && IsTerminal(step.job.state())) {
    const absl::Duration duration =
        FromTimestamp(step.job.end_time()) - FromTimestamp(step.job.create_time());
    metrics_.JobEnded(step.job.state(), duration, ReasonOf(FromRpcStatus(step.job.error())));
    Log(LogLevel::kInfo, "job ended",
        {{"job", name},
         {"state", Job::State_Name(step.job.state())},
         {"error", step.job.error().message()}});
  }
  if (input.kind == JobInput::Kind::kStart) {
    metrics_.JobStarted();
    Log(LogLevel::kInfo, "job started",
        {{"job", name}, {"attempt", absl::StrCat(step.job.attempt())}});
  }
  for (const JobAction action : step.actions) {
    if (action == JobAction::kExecute) executor_.Start(step.job, *this);
    if (action == JobAction::kStop) executor_.Cancel(name);
  }
  return step.job;
}

MetricsView Coordinator::View() const {
  MetricsView view{.jobs = jobs_->CountByState()};
  view.active = jobs_
                    ->List("", "", Metrics::kMostJobs,
                           [](const Job& job) {
                             return !IsTerminal(job.state()) && job.state() != Job::QUEUED;
                           })
                    .jobs;
  view.damaged_jobs = static_cast<int64_t>(jobs_->damaged().size());
  return view;
}

void Coordinator::Shutdown() {
  if (stopping_.exchange(true)) return;
  if (jobs_ != nullptr) jobs_->CloseWatches();
  executor_.Shutdown();
}

}  // namespace cvxq
