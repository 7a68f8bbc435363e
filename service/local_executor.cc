#include "service/local_executor.h"

#include <algorithm>
#include <filesystem>
#include <new>

#include "base/interrupt.h"
#include "pipeline/model_files.h"
#include "service/errors.h"
#include "service/job_reporter.h"
#include "service/job_spec.h"
#include "service/source_fingerprint.h"
#include "storage/files.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

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
      return reason::kWorkersGone;
    default:
      return reason::kInternal;
  }
}

Status OutputExists(const std::string& path) {
  return ServiceError(absl::StatusCode::kAlreadyExists, reason::kOutputExists,
                      absl::StrCat(path, " exists; an output is made, never replaced"));
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
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
  if (Exists(options.output)) return OutputExists(options.output);
  if (!fs::is_directory(fs::path(options.output).parent_path())) {
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

void LocalExecutor::Run(const Task& task) {
  const std::string& name = task.job.name();
  if (task.job.state() == Job::PUBLISHING) {
    task.sink->Report(name, Resume(task.job)).status().IgnoreError();  // it retries what may pass
    return;
  }
  const int32_t attempt = task.job.attempt() + 1;
  const StatusOr<Job> started =
      task.sink->Report(name, {.kind = JobInput::Kind::kStart, .attempt = attempt});
  if (!started.ok()) return;  // cancelled or deleted meanwhile, or this process is to stop
  const Status status = Quantise(task, attempt);
  JobInput outcome{.kind = JobInput::Kind::kSucceed, .attempt = attempt};
  if (!status.ok()) {
    {
      std::lock_guard lock(mutex_);
      if (shutdown_ || Interrupted()) return;  // whoever starts next begins anew
    }
    outcome.kind = JobInput::Kind::kStopped;
    if (*task.stop && task.sink->Report(name, outcome).ok()) return;
    // Failed, or stopped because its reports were refused for another reason than a cancellation.
    outcome.kind = JobInput::Kind::kFail;
    outcome.error = ToRpcStatus(WithReason(status, ReasonOfWork));
  }
  task.sink->Report(name, outcome).status().IgnoreError();
}

Status LocalExecutor::Quantise(const Task& task, int32_t attempt) {
  const std::string& name = task.job.name();
  CVXQ_ASSIGN_OR_RETURN(QuantizeOptions options, ToQuantizeOptions(task.job, policy_));
  CVXQ_ASSIGN_OR_RETURN(const std::string before, SourceFingerprint(options.model));
  const StopScope scope(task.stop.get());
  JobReporter reporter(*task.sink, name, attempt, options_.report_interval, *task.stop);
  Progress progress(
      {.listener = [&reporter](const ProgressUpdate& update) { reporter.Listen(update); }});
  options.make_stages = options_.make_stages;
  options.before_publish = [&](const QuantizeReport& report) -> Status {
    CVXQ_ASSIGN_OR_RETURN(const std::string now, SourceFingerprint(options.model));
    if (now != before) {
      return ServiceError(absl::StatusCode::kFailedPrecondition, reason::kSourceChanged,
                          absl::StrCat(options.model, " was written to while it was read"));
    }
    reporter.Finish();
    const Status granted = task.sink
                               ->Report(name, {.kind = JobInput::Kind::kPublish,
                                               .attempt = attempt,
                                               .result = ToManifest(task.job, report)})
                               .status();
    if (!granted.ok()) *task.stop = true;
    return granted;
  };
  try {
    return options_.quantize(options, progress).status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "not enough memory; try fewer samples or shorter sequences");
  } catch (const std::exception& error) {  // of the standard library, on files that go away
    return absl::InternalError(error.what());
  }
}

// What a job's output tells of an attempt that was lost after it was allowed to publish.
JobInput LocalExecutor::Resume(const Job& job) const {
  JobInput input{.kind = JobInput::Kind::kSucceed, .attempt = job.attempt()};
  const StatusOr<std::string> path =
      policy_.LocalPath("quantize_model_job.output.uri", job.output().uri());
  if (!path.ok()) {
    input.kind = JobInput::Kind::kFail;
    input.error = ToRpcStatus(path.status());
    return input;
  }
  if (!Exists(*path)) {
    input.kind = JobInput::Kind::kRequeue;
    input.text = "nothing was published";
    return input;
  }
  const auto& files = job.result().files();
  const bool ours = std::all_of(files.begin(), files.end(), [&](const auto& file) {
    const StatusOr<std::string> sha256 = FileSha256(absl::StrCat(*path, "/", file.path()));
    return sha256.ok() && *sha256 == file.sha256();
  });
  if (!ours) {
    input.kind = JobInput::Kind::kFail;
    input.error = ToRpcStatus(OutputExists(*path));
  }
  return input;
}

}  // namespace cvxq
