#include "service/job.h"

#include <algorithm>

#include "service/errors.h"
#include "service/timestamps.h"
#include "service/utf8.h"

namespace cvxq {
namespace {

using Kind = JobInput::Kind;
using v1::JobRecord;

constexpr size_t kLongestLogLine = 1024;

Status WrongState(const Job& job, const char* reason, const std::string& what) {
  return ServiceError(absl::StatusCode::kFailedPrecondition, reason,
                      absl::StrCat(job.name(), " is ", Job::State_Name(job.state()), ": ", what));
}

// An input that the job's cancellation has overtaken.
Status TooLate(const Job& job) {
  return ServiceError(absl::StatusCode::kCancelled, reason::kJobCancelled,
                      absl::StrCat(job.name(), " was cancelled"));
}

// One step under construction.
class Builder {
 public:
  Builder(const Job& job, absl::Time now) : now_(now) { step_.job = job; }

  // Adds a record, to be filled by the caller before the next call.
  JobRecord& Add() {
    JobRecord& record = step_.records.emplace_back();
    *record.mutable_time() = ToTimestamp(now_);
    return record;
  }
  void Act(JobAction action) { step_.actions.push_back(action); }

  StatusOr<JobStep> Finish() {
    for (const JobRecord& record : step_.records) {
      CVXQ_RETURN_IF_ERROR(Fold(record, step_.job.revision() + 1, step_.job));
    }
    return std::move(step_);
  }

 private:
  const absl::Time now_;
  JobStep step_;
};

bool IsActive(Job::State state) {
  return state == Job::PREPARING || state == Job::RUNNING || state == Job::PUBLISHING ||
         state == Job::CANCELLING;
}

Status Cancel(const Job& job, Builder& step) {
  switch (job.state()) {
    case Job::QUEUED:
      step.Add().mutable_cancelled();
      step.Act(JobAction::kStop);
      return absl::OkStatus();
    case Job::PREPARING:
    case Job::RUNNING:
      step.Add().mutable_cancelling();
      step.Act(JobAction::kStop);
      return absl::OkStatus();
    case Job::CANCELLING:
      return absl::OkStatus();
    case Job::PUBLISHING:
      return WrongState(job, reason::kJobPublishing, "too late to cancel");
    default:
      return WrongState(job, reason::kJobEnded, "there is nothing to cancel");
  }
}

// A job nobody works on any more: done with, or handed out again. What was about to be published
// may have appeared: the executor looks before anything else.
Status Recover(const Job& job, Builder& step) {
  const int32_t most =
      job.resources().max_attempts() > 0 ? job.resources().max_attempts() : kDefaultMaxAttempts;
  switch (job.state()) {
    case Job::QUEUED:
    case Job::PUBLISHING:
      step.Act(JobAction::kExecute);
      return absl::OkStatus();
    case Job::PREPARING:
    case Job::RUNNING:
      if (job.attempt() >= most) {
        *step.Add().mutable_failed()->mutable_error() = ToRpcStatus(ServiceError(
            absl::StatusCode::kAborted, reason::kTooManyAttempts,
            absl::StrCat("the coordinator stopped during each of ", job.attempt(), " attempts")));
        return absl::OkStatus();
      }
      step.Add().mutable_requeued()->set_reason("the coordinator was started again");
      step.Act(JobAction::kExecute);
      return absl::OkStatus();
    case Job::CANCELLING:
      step.Add().mutable_cancelled();
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

Status Start(const Job& job, const JobInput& input, Builder& step) {
  if (job.state() == Job::QUEUED && input.attempt == job.attempt() + 1) {
    step.Add().mutable_started();
    return absl::OkStatus();
  }
  if (job.state() == Job::PREPARING && input.attempt == job.attempt()) return absl::OkStatus();
  return WrongState(job, reason::kWrongState,
                    absl::StrCat("attempt ", input.attempt, " cannot start"));
}

// The end of the work, for any reason: to `then`, unless the job was cancelled meanwhile.
bool EndsCancelled(const Job& job, Builder& step) {
  if (job.state() != Job::CANCELLING) return false;
  step.Add().mutable_cancelled();
  return true;
}

Status Report(const Job& job, const JobInput& input, Builder& step) {
  if (input.kind == Kind::kProgress) {
    if (job.state() != Job::PREPARING && job.state() != Job::RUNNING) {
      return WrongState(job, reason::kWrongState, "progress is not expected");
    }
    v1::Progress& progress = *step.Add().mutable_progressed();
    progress = input.progress;
    progress.set_percent(std::clamp(progress.percent(), job.progress().percent(), 100));
    return absl::OkStatus();
  }
  if (!IsActive(job.state())) {
    return WrongState(job, reason::kWrongState, "log lines are not expected");
  }
  v1::LogLine& line = *step.Add().mutable_logged();
  line = input.log;
  line.set_text(CleanUtf8(line.text(), kLongestLogLine));
  return absl::OkStatus();
}

Status Publish(const Job& job, const JobInput& input, Builder& step) {
  if (job.state() == Job::RUNNING) {
    *step.Add().mutable_publishing()->mutable_result() = input.result;
    return absl::OkStatus();
  }
  if (job.state() == Job::PUBLISHING &&
      job.result().SerializeAsString() == input.result.SerializeAsString()) {
    return absl::OkStatus();
  }
  return WrongState(job, reason::kWrongState, "it may not publish");
}

// Inputs of whoever works on the job.
Status Work(const Job& job, const JobInput& input, Builder& step) {
  const Job::State state = job.state();
  switch (input.kind) {
    case Kind::kRun:
      if (state == Job::PREPARING) step.Add().mutable_running();
      if (state == Job::PREPARING || state == Job::RUNNING) return absl::OkStatus();
      break;
    case Kind::kProgress:
    case Kind::kLog:
      return Report(job, input, step);
    case Kind::kPublish:
      return Publish(job, input, step);
    case Kind::kSucceed:
      if (state == Job::PUBLISHING) step.Add().mutable_succeeded();
      if (state == Job::PUBLISHING || state == Job::SUCCEEDED) return absl::OkStatus();
      break;
    case Kind::kFail:
      if (state == Job::FAILED || EndsCancelled(job, step)) return absl::OkStatus();
      if (IsTerminal(state)) break;
      *step.Add().mutable_failed()->mutable_error() = input.error;
      return absl::OkStatus();
    case Kind::kStopped:
      if (state == Job::CANCELLED || EndsCancelled(job, step)) return absl::OkStatus();
      break;
    case Kind::kRequeue:
      if (EndsCancelled(job, step)) return absl::OkStatus();
      if (!IsActive(state)) break;
      step.Add().mutable_requeued()->set_reason(input.text);
      step.Act(JobAction::kExecute);
      return absl::OkStatus();
    default:
      break;
  }
  return WrongState(job, reason::kWrongState, "this does not follow");
}

// Whether the input ends the work that the cancellation of the job is waiting for, or only speaks
// of it: all others are too late.
bool FitsCancelled(Kind kind) {
  return kind == Kind::kLog || kind == Kind::kFail || kind == Kind::kStopped ||
         kind == Kind::kRequeue;
}

}  // namespace

bool IsTerminal(Job::State state) {
  return state == Job::SUCCEEDED || state == Job::FAILED || state == Job::CANCELLED;
}

JobStep CreateJob(const Job& accepted, absl::Time now) {
  Builder step(Job(), now);
  *step.Add().mutable_created()->mutable_job() = accepted;
  step.Act(JobAction::kExecute);
  return *step.Finish();  // the first record of a log always folds
}

StatusOr<JobStep> Step(const Job& job, const JobInput& input, absl::Time now) {
  Builder step(job, now);
  const bool cancelled = job.state() == Job::CANCELLING || job.state() == Job::CANCELLED;
  if (input.kind == Kind::kCancel) {
    CVXQ_RETURN_IF_ERROR(Cancel(job, step));
  } else if (input.kind == Kind::kRecover) {
    CVXQ_RETURN_IF_ERROR(Recover(job, step));
  } else if (cancelled && !FitsCancelled(input.kind)) {
    return TooLate(job);
  } else if (input.kind == Kind::kStart) {
    CVXQ_RETURN_IF_ERROR(Start(job, input, step));
  } else if (input.attempt != job.attempt()) {
    return WrongState(
        job, reason::kAttemptOver,
        absl::StrCat("attempt ", input.attempt, " is over, ", job.attempt(), " is the latest"));
  } else {
    CVXQ_RETURN_IF_ERROR(Work(job, input, step));
  }
  return step.Finish();
}

Status Fold(const JobRecord& record, int64_t revision, Job& job) {
  const bool first = job.revision() == 0;
  const bool fits =
      first ? record.has_snapshot() || (record.has_created() && revision == 1)
            : revision == job.revision() + 1 && !record.has_created() && !record.has_snapshot();
  if (!fits) {
    return absl::DataLossError(absl::StrCat("the log of ", job.name(), " does not go on from ",
                                            job.revision(), " with its record ", revision));
  }
  switch (record.change_case()) {
    case JobRecord::kSnapshot:
      job = record.snapshot().job();
      if (job.revision() == revision) return absl::OkStatus();
      return absl::DataLossError(absl::StrCat("the snapshot of ", job.name(), " at ", revision,
                                              " says it is ", job.revision()));
    case JobRecord::kCreated:
      job = record.created().job();
      *job.mutable_create_time() = record.time();
      job.set_state(Job::QUEUED);
      break;
    case JobRecord::kRequeued:
      job.set_state(Job::QUEUED);
      job.clear_progress();
      job.clear_result();
      break;
    case JobRecord::kStarted:
      job.set_state(Job::PREPARING);
      job.set_attempt(job.attempt() + 1);
      if (!job.has_start_time()) *job.mutable_start_time() = record.time();
      break;
    case JobRecord::kRunning:
      job.set_state(Job::RUNNING);
      break;
    case JobRecord::kProgressed:
      *job.mutable_progress() = record.progressed();
      *job.mutable_progress()->mutable_last_update_time() = record.time();
      break;
    case JobRecord::kLogged:
      break;
    case JobRecord::kPublishing:
      job.set_state(Job::PUBLISHING);
      *job.mutable_result() = record.publishing().result();
      break;
    case JobRecord::kCancelling:
      job.set_state(Job::CANCELLING);
      break;
    case JobRecord::kSucceeded:
      job.set_state(Job::SUCCEEDED);
      job.mutable_progress()->set_percent(100);
      job.mutable_progress()->clear_estimated_remaining();
      break;
    case JobRecord::kFailed:
      job.set_state(Job::FAILED);
      job.clear_result();
      *job.mutable_error() = record.failed().error();
      break;
    case JobRecord::kCancelled:
      job.set_state(Job::CANCELLED);
      *job.mutable_error() = ToRpcStatus(ServiceError(
          absl::StatusCode::kCancelled, reason::kJobCancelled, "cancelled on request"));
      break;
    case JobRecord::kDeleted:
    case JobRecord::CHANGE_NOT_SET:
      return absl::DataLossError(
          absl::StrCat("record ", revision, " of ", job.name(),
                       " is of a kind that this version does not know; run the newer version"));
  }
  if (IsTerminal(job.state())) *job.mutable_end_time() = record.time();
  *job.mutable_update_time() = record.time();
  job.set_revision(revision);
  job.set_etag(absl::StrCat(job.uid().substr(0, 8), "-", revision));
  return absl::OkStatus();
}

}  // namespace cvxq
