#include "service/local_executor.h"

#include <algorithm>
#include <filesystem>
#include <new>

#include "base/failpoint.h"
#include "base/interrupt.h"
#include "pipeline/job_state.h"
#include "pipeline/model_files.h"
#include "pipeline/output.h"
#include "service/errors.h"
#include "service/job_reporter.h"
#include "service/job_spec.h"
#include "service/log.h"
#include "storage/folder.h"
#include "storage/source_fingerprint.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kPauseOfResume = absl::Seconds(1);

// What the library's codes mean for a job.
const char* ReasonOfWork(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return reason::kOptionsRefused;
    case absl::StatusCode::kNotFound:
      return reason::kFileNotFound;
    case absl::StatusCode::kPermissionDenied:
      return reason::kFileDenied;
    case absl::StatusCode::kAlreadyExists:
      return reason::kOutputExists;
    case absl::StatusCode::kDataLoss:
      return reason::kFileDamaged;
    case absl::StatusCode::kFailedPrecondition:
      return reason::kFileUnsuitable;
    case absl::StatusCode::kUnimplemented:
      return reason::kSourceUnsupported;
    case absl::StatusCode::kResourceExhausted:
      return reason::kOutOfResources;
    case absl::StatusCode::kUnavailable:
      return reason::kStorageUnavailable;
    default:
      return reason::kInternal;
  }
}

Status OutputExists(const std::string& path) {
  return ServiceError(absl::StatusCode::kAlreadyExists, reason::kOutputExists,
                      absl::StrCat(path, " exists; an output is made, never replaced"));
}

Status SourceChanged(const std::string& model) {
  return ServiceError(absl::StatusCode::kFailedPrecondition, reason::kSourceChanged,
                      absl::StrCat(model,
                                   " was written to while it was read, or is not the "
                                   "revision that was asked for"));
}

// Whether this process is to stop before it could be found out what was published: whoever starts
// next will.
bool IsUndecided(const JobInput& resumed) {
  const Status error = FromRpcStatus(resumed.error);
  return absl::IsUnavailable(error) || absl::IsCancelled(error);
}

}  // namespace

LocalExecutor::LocalExecutor(StoragePolicy policy, LocalExecutorOptions options)
    : policy_(std::move(policy)), options_(std::move(options)) {
  for (int i = 0; i < options_.parallel; ++i) {
    threads_.emplace_back([this] { Work(); });
  }
}

LocalExecutor::~LocalExecutor() { Shutdown(); }

Status LocalExecutor::Check(const Job& job) {
  CVXQ_ASSIGN_OR_RETURN(const QuantizeOptions options, ToQuantizeOptions(job, policy_));
  const StatusOr<ModelFiles> files = OpenModel(options.model, 1);
  if (!files.ok()) return WithReason(files.status(), ReasonOfWork);
  if (files->packed) {
    return ServiceError(absl::StatusCode::kFailedPrecondition, reason::kFileUnsuitable,
                        absl::StrCat(options.model, " is quantised already; name the original"));
  }
  if (!job.source().revision().empty()) {
    const StatusOr<std::string> revision = files->checkpoint->files().Revision();
    if (!revision.ok()) return WithReason(revision.status(), ReasonOfWork);
    if (*revision != job.source().revision()) return SourceChanged(options.model);
  }
  const StatusOr<OutputState> state = FindOutput(options.output, {});
  if (!state.ok()) return WithReason(state.status(), ReasonOfWork);
  if (*state != OutputState::kNone) return OutputExists(options.output);
  if (!IsBucketAddress(options.output) &&
      !fs::is_directory(fs::path(options.output).parent_path())) {
    return ServiceError(absl::StatusCode::kNotFound, reason::kFileNotFound,
                        absl::StrCat("the folder above ", options.output, " does not exist"));
  }
  return absl::OkStatus();
}

void LocalExecutor::Start(const Job& job, JobSink& sink) {
  std::lock_guard lock(mutex_);
  if (shutdown_) return;
  queue_.push_back({job, &sink, std::make_shared<std::atomic<bool>>(false)});
  wake_.notify_one();
}

void LocalExecutor::Cancel(const std::string& name) {
  std::lock_guard lock(mutex_);
  std::erase_if(queue_, [&](const Task& task) { return task.job.name() == name; });
  if (const auto found = running_.find(name); found != running_.end()) *found->second = true;
}

void LocalExecutor::Shutdown() {
  {
    std::lock_guard lock(mutex_);
    shutdown_ = true;
    queue_.clear();
    for (const auto& [name, stop] : running_) *stop = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void LocalExecutor::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return shutdown_ || !queue_.empty(); });
    if (shutdown_) return;
    const Task task = std::move(queue_.front());
    queue_.pop_front();
    running_[task.job.name()] = task.stop;
    lock.unlock();
    Run(task);
    lock.lock();
    // A requeued job may have begun anew on another thread.
    const auto found = running_.find(task.job.name());
    if (found != running_.end() && found->second == task.stop) running_.erase(found);
  }
}

// False where it is to stop.
bool LocalExecutor::Wait(absl::Duration duration) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, absl::ToChronoMilliseconds(duration), [this] { return shutdown_; });
}

void LocalExecutor::Run(const Task& task) {
  const std::string& name = task.job.name();
  if (task.job.state() == Job::PUBLISHING) {
    const JobInput outcome = Resume(task.job);
    if (IsUndecided(outcome)) return;
    const bool reported = task.sink->Report(name, outcome).ok();  // it retries what may pass
    if (reported && outcome.kind != JobInput::Kind::kRequeue) ForgetState(task.job);
    return;
  }
  const int32_t attempt = task.job.attempt() + 1;
  Failpoint("work-before-start");
  const StatusOr<Job> started =
      task.sink->Report(name, {.kind = JobInput::Kind::kStart, .attempt = attempt});
  if (!started.ok()) return;  // cancelled or deleted meanwhile, or this process is to stop
  Failpoint("work-started");
  std::optional<Job> publishing;
  const Status status = Quantise(task, attempt, publishing);
  Failpoint("work-before-outcome");
  JobInput outcome{.kind = JobInput::Kind::kSucceed, .attempt = attempt};
  if (publishing && absl::IsUnavailable(status)) {
    // The last write may have come through although no reply did.
    outcome = Resume(*publishing);
    if (IsUndecided(outcome)) return;
  } else if (!status.ok()) {
    {
      std::lock_guard lock(mutex_);
      if (shutdown_ || Interrupted()) return;  // whoever starts next begins anew
    }
    outcome.kind = JobInput::Kind::kStopped;
    if (*task.stop && task.sink->Report(name, outcome).ok()) return ForgetState(task.job);
    // Failed, or stopped because its reports were refused for another reason than a cancellation.
    outcome.kind = JobInput::Kind::kFail;
    outcome.error = ToRpcStatus(WithReason(status, ReasonOfWork));
  }
  // Where the report is refused, the job is another coordinator's by now, and so is what is kept.
  const bool reported = task.sink->Report(name, outcome).ok();
  if (reported && !status.ok()) ForgetState(task.job);
}

// What a job that has ended has left behind.
void LocalExecutor::ForgetState(const Job& job) const {
  const StatusOr<QuantizeOptions> options = ToQuantizeOptions(job, policy_);
  if (!options.ok()) return;
  const Status removed = RemoveJobStates(StateAddress(options->output));
  if (removed.ok()) return;
  Log(LogLevel::kWarning, "cannot remove what a job has left: " + std::string(removed.message()),
      {{"job", job.name()}});
}

Status LocalExecutor::Quantise(const Task& task, int32_t attempt, std::optional<Job>& publishing) {
  const std::string& name = task.job.name();
  CVXQ_ASSIGN_OR_RETURN(QuantizeOptions options, ToQuantizeOptions(task.job, policy_));
  CVXQ_ASSIGN_OR_RETURN(const std::string before, SourceFingerprint(options.model));
  if (const std::string& revision = task.job.source().revision();
      !revision.empty() && revision != before) {
    return SourceChanged(options.model);
  }
  const StopScope scope(task.stop.get());
  JobReporter reporter(*task.sink, name, attempt, options_.report_interval, *task.stop);
  Progress progress(
      {.listener = [&reporter](const ProgressUpdate& update) { reporter.Listen(update); }});
  options.make_stages = options_.make_stages;
  options.stage_numerics = options_.stage_numerics;
  options.backend = BackendKind::kCpu;  // of a coordinator, whose workers have the GPUs
  options.state = StateAddress(options.output);
  options.save_seconds = options_.save_seconds;
  options.before_publish = [&](const QuantizeReport& report) -> Status {
    CVXQ_ASSIGN_OR_RETURN(const std::string now, SourceFingerprint(options.model));
    if (now != before) return SourceChanged(options.model);
    reporter.Finish();
    Failpoint("work-before-publish");
    const StatusOr<Job> granted = task.sink->Report(name, {.kind = JobInput::Kind::kPublish,
                                                           .attempt = attempt,
                                                           .result = ToManifest(task.job, report)});
    Failpoint("work-may-publish");
    if (!granted.ok()) {
      *task.stop = true;
      return granted.status();
    }
    publishing = *granted;
    return absl::OkStatus();
  };
  try {
    const Status status = options_.quantize(options, progress).status();
    // What was noticed first, of a source that has changed, may look like another error.
    if (!status.ok() && ReasonOf(status).empty() && !absl::IsCancelled(status)) {
      const StatusOr<std::string> now = SourceFingerprint(options.model);
      if (now.ok() && *now != before) return SourceChanged(options.model);
    }
    return status;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "not enough memory; try fewer samples or shorter sequences");
  } catch (const std::exception& error) {  // of the standard library, on files that go away
    return absl::InternalError(error.what());
  }
}

// What a job's output tells of an attempt that was lost after it was allowed to publish.
JobInput LocalExecutor::Resume(const Job& job) {
  JobInput input{.kind = JobInput::Kind::kSucceed, .attempt = job.attempt()};
  const StatusOr<std::string> path =
      policy_.Allowed("quantize_model_job.output.uri", job.output().uri());
  if (!path.ok()) {
    input.kind = JobInput::Kind::kFail;
    input.error = ToRpcStatus(path.status());
    return input;
  }
  std::map<std::string, std::string> sha256;
  for (const auto& file : job.result().files()) sha256[file.path()] = file.sha256();
  StatusOr<OutputState> state = FindOutput(*path, sha256);
  while (absl::IsUnavailable(state.status()) && Wait(kPauseOfResume)) {
    state = FindOutput(*path, sha256);
  }
  if (!state.ok()) {
    input.kind = JobInput::Kind::kFail;
    input.error = ToRpcStatus(WithReason(state.status(), ReasonOfWork));
  } else if (*state == OutputState::kNone) {
    input.kind = JobInput::Kind::kRequeue;
    input.text = "nothing was published";
  } else if (*state == OutputState::kOther) {
    input.kind = JobInput::Kind::kFail;
    input.error = ToRpcStatus(OutputExists(*path));
  }
  return input;
}

}  // namespace cvxq
