#include "service/workers/remote_stages.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "kernels/backend.h"
#include "service/errors.h"
#include "service/log.h"
#include "service/uuid.h"
#include "service/workers/stage_times.h"
#include "service/workers/wire.h"
#include "storage/source_fingerprint.h"

namespace cvxq {
namespace {

Status WorkersGone(const std::string& message) {
  return ServiceError(absl::StatusCode::kUnavailable, reason::kWorkersGone, message);
}

constexpr std::chrono::milliseconds kTick{100};  // how soon an interruption is seen

// Those whose results have the same bits.
std::vector<std::shared_ptr<WorkerLink>> SuitableWorkers(const WorkerPool& pool,
                                                         const std::string& numerics_class) {
  std::vector<std::shared_ptr<WorkerLink>> workers = pool.workers();
  std::erase_if(workers, [&](const auto& worker) {
    return worker->hello().numerics_class() != numerics_class;
  });
  return workers;
}

// A job that outlived its coordinator shall not be cut before its workers are back.
Status Settle(const WorkerPool& pool) {
  while (pool.settling() > absl::ZeroDuration()) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    absl::SleepFor(std::min(pool.settling(), absl::Milliseconds(100)));
  }
  return absl::OkStatus();
}

// Whether another worker may not have what this one failed for.
bool IsOfOneWorker(const Status& status) {
  return absl::IsNotFound(status) || absl::IsPermissionDenied(status) ||
         absl::IsFailedPrecondition(status) || absl::IsResourceExhausted(status);
}

Status Nonsense() { return absl::DataLossError("a worker's answer does not fit its order"); }

// That of this machine's CPU.
const std::string& OwnNumericsClass() {
  static const auto* const own = new std::string(MakeCpuBackend(1)->numerics_class());
  return *own;
}

}  // namespace

MakeStages UseWorkers(WorkerPool& pool, RemoteStagesOptions options) {
  return [&pool, options](const StageJob& job) { return RemoteStages::Start(pool, job, options); };
}

MakeStages UseWorkersIfAny(WorkerPool& pool) {
  return [&pool](const StageJob& job) -> StatusOr<std::unique_ptr<Stages>> {
    CVXQ_RETURN_IF_ERROR(Settle(pool));
    if (SuitableWorkers(pool, job.numerics_class).empty() &&
        job.numerics_class == OwnNumericsClass()) {
      return nullptr;
    }
    return RemoteStages::Start(pool, job, {});
  };
}

std::optional<Numerics> NumericsOfWorkers(const WorkerPool& pool) {
  std::map<std::string, std::pair<int64_t, Numerics>> classes;
  for (const auto& worker : pool.workers()) {
    const v1::Hello& hello = worker->hello();
    auto& [count, numerics] = classes[hello.numerics_class()];
    ++count;
    numerics = {hello.backend(), hello.numerics_class(), hello.fast_bf16()};
  }
  const auto rank = [](const auto& entry) {
    return std::pair(entry.second.first, entry.first == OwnNumericsClass());
  };
  const auto largest =
      std::max_element(classes.begin(), classes.end(),
                       [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  if (largest == classes.end()) return std::nullopt;
  return largest->second.second;
}

StatusOr<std::optional<Numerics>> SettledNumericsOfWorkers(const WorkerPool& pool) {
  CVXQ_RETURN_IF_ERROR(Settle(pool));
  return NumericsOfWorkers(pool);
}

RemoteStages::RemoteStages(WorkerPool& pool, const StageJob& job,
                           const RemoteStagesOptions& options)
    : pool_(pool), job_(job), options_(options), id_(NewUuid()) {}

StatusOr<std::unique_ptr<Stages>> RemoteStages::Start(WorkerPool& pool, const StageJob& job,
                                                      const RemoteStagesOptions& options) {
  std::unique_ptr<RemoteStages> stages(new RemoteStages(pool, job, options));
  stages->spec_ = ToProto(job);
  CVXQ_ASSIGN_OR_RETURN(std::string fingerprint, SourceFingerprint(job.files.folder));
  stages->spec_.set_fingerprint(std::move(fingerprint));
  pool.Attach(stages->id_, *stages);
  CVXQ_RETURN_IF_ERROR(stages->Cut());
  return stages;
}

RemoteStages::~RemoteStages() {
  pool_.Detach(id_);
  v1::Command release;
  release.mutable_key()->set_job(id_);
  release.mutable_release();
  for (const auto& worker : pool_.workers()) worker->Send(release);
}

Status RemoteStages::Cut() {
  std::unique_lock lock(mutex_);
  const absl::Time until = absl::Now() + options_.patience;
  std::vector<std::shared_ptr<WorkerLink>> workers;
  while ((workers = SuitableWorkers(pool_, job_.numerics_class)).empty()) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    if (absl::Now() > until) {
      return WorkersGone(
          absl::StrCat("no worker of the class ", job_.numerics_class, " has registered"));
    }
    changed_.wait_for(lock, kTick);
  }
  int64_t count = static_cast<int64_t>(workers.size());
  if (options_.workers > 0) count = std::min(count, options_.workers);
  layout_ = LayoutOf(job_, count, options_.replicas);
  for (const BlockRange& blocks : CutStages(job_.files.spec, layout_.stages)) {
    for (int64_t i = 0; i < layout_.replicas; ++i) parts_.push_back({.blocks = blocks});
  }
  spec_.set_stages(layout_.stages);
  spec_.set_replicas(layout_.replicas);
  Log(LogLevel::kInfo, "job laid out",
      {{"stages", absl::StrCat(layout_.stages)}, {"replicas", absl::StrCat(layout_.replicas)}});
  Failpoint("stages-cut");
  return absl::OkStatus();
}

Status RemoteStages::Restore(const JobPosition& position) {
  CVXQ_RETURN_IF_ERROR(CheckRestorable(position, layout_));
  std::unique_lock lock(mutex_);
  base_ = position;
  steps_.clear();
  start_step_ = ++step_;
  spec_.mutable_state()->set_step(position.step);
  spec_.mutable_state()->set_waves(position.waves);
  for (Part& part : parts_) {
    part.worker = nullptr;
    part.done.reset();
  }
  const Status status = Wait(lock, nullptr);
  // A state that cannot be used is no end: there may be another one.
  if (absl::IsDataLoss(status)) status_ = absl::OkStatus();
  return status;
}

// Gives every stage without a worker to the one that has fewest. With the lock.
Status RemoteStages::Settle() {
  for (size_t stage = 0; stage < parts_.size(); ++stage) {
    Part& part = parts_[stage];
    if (part.worker != nullptr && !part.worker->lost()) continue;
    if (part.worker != nullptr) {
      Log(LogLevel::kWarning, "a stage was lost with its worker",
          {{"stage", absl::StrCat(stage)}, {"worker", part.worker->hello().worker()}});
      part.worker = nullptr;
      cut_ = 0;
      ++pool_.stages_lost;
    }
    if (part.attempt > options_.most_losses) {
      return WorkersGone(absl::StrCat("blocks ", part.blocks.begin, " to ", part.blocks.end - 1,
                                      " have lost their worker ", part.attempt,
                                      " times; see the workers' logs"));
    }
    std::shared_ptr<WorkerLink> chosen;
    int64_t fewest = 0;
    for (const auto& worker : SuitableWorkers(pool_, job_.numerics_class)) {
      if (unfit_.contains(worker)) continue;
      const int64_t has = std::count_if(parts_.begin(), parts_.end(),
                                        [&](const Part& p) { return p.worker == worker; });
      if (chosen != nullptr && has >= fewest) continue;
      chosen = worker;
      fewest = has;
    }
    if (chosen == nullptr) {
      if (!unfit_status_.ok()) return unfit_status_;
      if (!alone_) alone_ = absl::Now();
      if (absl::Now() - *alone_ < options_.patience) return absl::OkStatus();
      return WorkersGone("all workers are gone");
    }
    alone_.reset();
    Assign(stage, std::move(chosen));
  }
  return absl::OkStatus();
}

void RemoteStages::Assign(size_t stage, std::shared_ptr<WorkerLink> worker) {
  Failpoint("stage-before-assign");
  Part& part = parts_[stage];
  part.worker = std::move(worker);
  ++part.attempt;
  part.begin = base_;
  v1::Command start;
  start.set_step(start_step_);
  *start.mutable_start() = spec_;
  start.mutable_start()->set_block_begin(part.blocks.begin);
  start.mutable_start()->set_block_end(part.blocks.end);
  start.mutable_start()->set_share(
      std::count_if(parts_.begin(), parts_.end(),
                    [&](const Part& other) { return other.worker == part.worker; }));
  Send(stage, std::move(start));
  TellNeighbours(stage);
  const size_t replicas = static_cast<size_t>(layout_.replicas), first = stage - stage % replicas;
  if (stage >= replicas) TellNeighbours(stage - replicas);
  if (stage + replicas < parts_.size()) TellNeighbours(stage + replicas);
  for (size_t peer = first; peer < first + replicas; ++peer) {
    if (peer != stage) TellNeighbours(peer);
  }
  for (const v1::Command& step : steps_) Send(stage, step);
}

// Empty: there is no such stage, or it is not anywhere now.
std::string RemoteStages::AddressOf(int64_t stage) const {
  if (stage < 0 || stage >= static_cast<int64_t>(parts_.size())) return "";
  const Part& part = parts_[stage];
  return part.worker != nullptr ? part.worker->hello().address() : "";
}

void RemoteStages::TellNeighbours(size_t stage) {
  const int64_t at = static_cast<int64_t>(stage), replicas = layout_.replicas;
  v1::Command command;
  v1::Command::Neighbours& neighbours = *command.mutable_neighbours();
  neighbours.set_before(AddressOf(at - replicas));
  neighbours.set_after(AddressOf(at + replicas));
  for (int64_t i = 0; i < replicas; ++i) {
    neighbours.add_peers(AddressOf(at - at % replicas + i));
  }
  Send(stage, std::move(command));
}

void RemoteStages::Send(size_t stage, v1::Command command) {
  const Part& part = parts_[stage];
  if (part.worker == nullptr) return;
  command.mutable_key()->set_job(id_);
  command.mutable_key()->set_stage(static_cast<int64_t>(stage));
  command.mutable_key()->set_attempt(part.attempt);
  part.worker->Send(command);
}

Status RemoteStages::Step(v1::Command command, Progress::Phase* phase,
                          std::vector<LinearPlan>* plans, WaveCommits* commits) {
  std::unique_lock lock(mutex_);
  command.set_step(++step_);
  phase_ = phase;
  plans_ = plans;
  for (size_t stage = 0; stage < parts_.size(); ++stage) {
    parts_[stage].advanced = 0;
    parts_[stage].done.reset();
    Send(stage, command);
  }
  LogStepBegins(command);
  steps_.push_back(std::move(command));
  Failpoint("step-sent");
  const Status status = Wait(lock, commits);
  Failpoint("step-done");
  phase_ = nullptr;
  plans_ = nullptr;
  return status;
}

// Until all stages have done what is under way, or one has failed.
Status RemoteStages::Wait(std::unique_lock<std::mutex>& lock, WaveCommits* commits) {
  const auto all_done = [&] {
    return std::all_of(parts_.begin(), parts_.end(),
                       [](const Part& part) { return part.done.has_value(); });
  };
  while (status_.ok() && !all_done()) {
    status_ = CheckInterrupted();
    if (status_.ok()) status_ = Settle();
    if (status_.ok() && commits != nullptr) TendCut(lock, *commits);
    if (status_.ok() && !all_done()) changed_.wait_for(lock, kTick);
  }
  cut_ = 0;
  return status_;
}

// Has all stages save their sums at a wave that none of them has reached, where it is time, and
// commits that once they have.
void RemoteStages::TendCut(std::unique_lock<std::mutex>& lock, WaveCommits& commits) {
  if (cut_ == 0) {
    if (!commits.Due()) return;
    const int64_t per_wave = WaveSequences(job_.calibration.seq_len);
    int64_t reached = 0;
    for (const Part& part : parts_) reached = std::max(reached, part.advanced / per_wave);
    // What is told of waves is late.
    const int64_t cut = reached + static_cast<int64_t>(parts_.size()) + 1;
    if (cut * per_wave >= job_.gradients.samples) return;
    cut_ = cut;
    cut_status_ = absl::OkStatus();
    for (size_t stage = 0; stage < parts_.size(); ++stage) {
      parts_[stage].saved = false;
      v1::Command command;
      command.set_cut(cut);
      Send(stage, std::move(command));
    }
    return;
  }
  if (!cut_status_.ok()) {
    commits.GiveUp(cut_status_);
    cut_ = 0;
    return;
  }
  if (!std::all_of(parts_.begin(), parts_.end(), [](const Part& part) { return part.saved; })) {
    return;
  }
  const int64_t waves = std::exchange(cut_, 0);
  double seconds = 0;
  for (const Part& part : parts_) seconds = std::max(seconds, part.save_seconds);
  lock.unlock();
  Failpoint("cut-saved");
  commits.Commit(waves, absl::Seconds(seconds));
  lock.lock();
}

void RemoteStages::Committed(const JobPosition& position) {
  const std::lock_guard lock(mutex_);
  base_ = position;
  spec_.mutable_state()->set_step(position.step);
  spec_.mutable_state()->set_waves(position.waves);
  if (position.step >= kGradientStep) steps_.clear();
  v1::Command command;
  command.mutable_key()->set_job(id_);
  command.mutable_committed()->set_step(position.step);
  command.mutable_committed()->set_waves(position.waves);
  for (const auto& worker : pool_.workers()) worker->Send(command);
  if (position.waves > 0) return;
  // A stage that was lost after it had saved is on its way here from an earlier position, and waits
  // for waves that others have just dropped: it begins again from what it had saved.
  for (size_t stage = 0; stage < parts_.size(); ++stage) {
    Part& part = parts_[stage];
    if (part.worker == nullptr || part.done_attempt == part.attempt) continue;
    Assign(stage, part.worker);
  }
}

Status RemoteStages::Save(int64_t step) {
  v1::Command command;
  command.set_save(step);
  CVXQ_RETURN_IF_ERROR(Step(std::move(command), nullptr, nullptr));
  for (const Part& part : parts_) {
    if (part.done->has_save_error()) return FromRpcStatus(part.done->save_error());
  }
  return absl::OkStatus();
}

void RemoteStages::OnReport(const WorkerLink& worker, v1::Report report) {
  const std::lock_guard lock(mutex_);
  const uint64_t stage = static_cast<uint64_t>(report.key().stage());
  if (stage >= parts_.size()) return;
  Part& part = parts_[stage];
  // Nothing counts but what the present worker says of the present step: others are late, or go
  // through steps again.
  if (part.worker.get() != &worker || part.attempt != report.key().attempt()) return;
  if (report.has_error()) {
    const Status error = FromRpcStatus(report.error());
    if (IsOfOneWorker(error)) {
      Log(LogLevel::kWarning, "a worker failed at a stage: " + std::string(error.message()),
          {{"stage", absl::StrCat(stage)}, {"worker", worker.hello().worker()}});
      unfit_.insert(part.worker);
      unfit_status_ = error;
      ++pool_.stages_refused;
      part.worker = nullptr;
    } else if (absl::IsDataLoss(error) && part.begin < base_) {
      part.worker = nullptr;  // what it was told to begin with was removed meanwhile
    } else if (status_.ok()) {
      status_ = error;
    }
    changed_.notify_all();
    return;
  }
  if (report.step() != step_ || part.done) return;
  if (report.has_done()) {
    Failpoint("step-report-heard");
    LogStepDone(report);
    part.done = std::move(*report.mutable_done());
    part.done_attempt = report.key().attempt();
    changed_.notify_all();
  } else if (report.has_linear() && plans_ != nullptr) {
    const Status status = FromProto(report.linear(), *plans_);
    if (status_.ok()) status_ = status;
  } else if (report.has_cut()) {
    if (report.cut().waves() != cut_) return;
    part.saved = report.cut().saved();
    part.save_seconds = report.cut().seconds();
    if (report.cut().has_error()) {
      cut_status_ = FromRpcStatus(report.cut().error());
    } else if (!part.saved) {
      cut_ = 0;  // it came too late for this stage
    }
    changed_.notify_all();
  } else if (phase_ != nullptr && report.advanced() > part.advanced) {
    phase_->Advance(report.advanced() - part.advanced);
    part.advanced = report.advanced();
  }
}

void RemoteStages::OnChange() {
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

double RemoteStages::Damping() const {
  double damping = 0;
  for (const Part& part : parts_) damping = std::max(damping, part.done->damping());
  return damping;
}

StatusOr<double> RemoteStages::Gradients(Progress& progress, WaveCommits* commits) {
  auto phase = progress.Start("gradients", job_.gradients.samples * layout_.stages, "sequences");
  v1::Command command;
  command.mutable_gradients();
  // A cut is of one pipeline.
  CVXQ_RETURN_IF_ERROR(
      Step(std::move(command), &phase, nullptr, layout_.replicas == 1 ? commits : nullptr));
  phase.Done();
  return Damping();
}

StatusOr<double> RemoteStages::Moments(Progress& progress) {
  auto phase = progress.Start("input moments", job_.files.spec.layers, "blocks");
  v1::Command command;
  command.mutable_moments();
  CVXQ_RETURN_IF_ERROR(Step(std::move(command), &phase, nullptr));
  phase.Done();
  return Damping();
}

StatusOr<EntropyAnswer> RemoteStages::CarryOut(const EntropyOrder& order, int64_t step,
                                               Progress::Phase& phase) {
  v1::Command command;
  command.set_job_step(step);
  *command.mutable_order() = ToProto(order);
  CVXQ_RETURN_IF_ERROR(Step(std::move(command), &phase, nullptr));
  EntropyAnswer answer;
  for (const Part& part : parts_) {
    CVXQ_ASSIGN_OR_RETURN(EntropyAnswer of_part, FromProto(part.done->answer()));
    answer.Append(std::move(of_part));
  }
  const size_t blocks = order.blocks.size(), each = job_.files.spec.linears().size();
  const bool foreseen = order.kind == EntropyOrder::Kind::kForesee;
  if (answer.histograms.size() != (foreseen ? blocks : 0) ||
      answer.linears.size() != (foreseen ? 0 : blocks * each)) {
    return Nonsense();
  }
  const int64_t plans = job_.files.spec.layers * static_cast<int64_t>(each);
  for (const EntropyAnswer::Linear& linear : answer.linears) {
    if (linear.plan < 0 || linear.plan >= plans || linear.bytes < 0) return Nonsense();
  }
  return answer;
}

Status RemoteStages::Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans) {
  const std::vector<uint8_t> bytes = tables->Serialize();
  v1::Command command;
  command.mutable_collect()->set_tables(bytes.data(), bytes.size());
  return Step(std::move(command), nullptr, &plans);
}

}  // namespace cvxq
