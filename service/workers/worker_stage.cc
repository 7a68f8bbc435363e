#include "service/workers/worker_stage.h"

#include <algorithm>
#include <new>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "pipeline/replicas.h"
#include "service/log.h"

namespace cvxq {
namespace {

constexpr int64_t kSmallModel = int64_t{256} << 20;  // as for jobs that are not cut

}  // namespace

WorkerStage::WorkerStage(v1::Command start, Waves& waves, const WorkerResources& resources,
                         std::shared_ptr<grpc::ChannelCredentials> credentials, SendReport send)
    : start_(std::move(start)), resources_(resources), send_(std::move(send)) {
  const v1::StageKey& key = start_.key();
  const int64_t replicas = start_.start().replicas(), stages = start_.start().stages();
  const auto make = [&](int64_t at) {
    return std::make_unique<RemoteBoundary>(key.job(), at, waves, stop_, credentials,
                                            absl::Minutes(2), &times_);
  };
  if (key.stage() >= replicas) before_ = make(key.stage() - replicas);
  if (key.stage() + replicas < stages * replicas) after_ = make(key.stage());
  for (int64_t i = 0; i < replicas; ++i) {
    peers_.push_back(make(key.stage() - key.stage() % replicas));
  }
  thread_ = std::thread([this] { Run(); });
}

WorkerStage::~WorkerStage() {
  Stop();
  thread_.join();
}

// Cuts as the coordinator wants them.
class WorkerStage::Cuts : public WaveCuts {
 public:
  Cuts(WorkerStage& stage, int64_t step) : stage_(stage), step_(step) {}

  bool Wanted(int64_t waves) override {
    const int64_t cut = stage_.cut_;
    if (cut == 0 || waves < cut) return false;
    stage_.cut_ = 0;
    if (waves == cut) return true;
    Tell(cut, /*saved=*/false, absl::OkStatus(), absl::ZeroDuration());
    return false;
  }
  void Saved(int64_t waves, const Status& status, absl::Duration took) override {
    Tell(waves, status.ok(), status, took);
  }

 private:
  void Tell(int64_t waves, bool saved, const Status& status, absl::Duration took) {
    Failpoint("cut-before-report");
    v1::Report report;
    report.mutable_cut()->set_waves(waves);
    report.mutable_cut()->set_saved(saved);
    report.mutable_cut()->set_seconds(absl::ToDoubleSeconds(took));
    if (!status.ok()) *report.mutable_cut()->mutable_error() = ToProto(status);
    stage_.Send(std::move(report), step_);
  }

  WorkerStage& stage_;
  const int64_t step_;
};

void WorkerStage::Add(v1::Command command) {
  if (command.has_cut()) {
    cut_ = command.cut();
    return;
  }
  if (command.has_neighbours()) {
    if (before_) before_->SetNeighbour(command.neighbours().before());
    if (after_) after_->SetNeighbour(command.neighbours().after());
    const int known = std::min(static_cast<int>(peers_.size()), command.neighbours().peers_size());
    for (int i = 0; i < known; ++i) peers_[i]->SetNeighbour(command.neighbours().peers(i));
    return;
  }
  const std::lock_guard lock(mutex_);
  commands_.push_back(std::move(command));
  wake_.notify_all();
}

void WorkerStage::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_all();
  }
  if (before_) before_->Wake();
  if (after_) after_->Wake();
  for (const auto& peer : peers_) peer->Wake();
}

void WorkerStage::Run() {
  const StageMeter stage_meter(resources_.metrics);
  const StopScope scope(&stop_);
  Status status;
  try {
    status = Work();
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("not enough memory on a worker");
  } catch (const std::exception& error) {  // of the standard library, on files that go away
    status = absl::InternalError(error.what());
  }
  // A process that was told to end reports nothing: its stages go elsewhere.
  if (!status.ok() && !Interrupted()) {
    v1::Report report;
    *report.mutable_error() = ToProto(status);
    Send(std::move(report), step_);
  }
  finished_ = true;
}

StatusOr<v1::Command> WorkerStage::Next() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return stop_ || !commands_.empty(); });
  if (stop_) return absl::CancelledError("the stage was taken away");
  v1::Command command = std::move(commands_.front());
  commands_.pop_front();
  step_ = command.step();
  return command;
}

StagePlace WorkerStage::Place() {
  const v1::StageSpec& spec = start_.start();
  const BlockRange blocks = {spec.block_begin(), spec.block_end()};
  const int64_t stage = start_.key().stage() / spec.replicas();
  const int64_t replica = start_.key().stage() % spec.replicas();
  StagePlace place{.blocks = blocks,
                   .before = before_.get(),
                   .after = after_.get(),
                   .waves_ahead = spec.stages() - stage,
                   .times = &times_,
                   .owned = OwnedBlocks(blocks, replica, spec.replicas()),
                   .replica = replica,
                   .replicas = spec.replicas()};
  for (const auto& peer : peers_) place.peers.push_back(peer.get());
  return place;
}

Status WorkerStage::Work() {
  Failpoint("stage-start");
  const absl::Time begin = absl::Now();
  const v1::StageSpec& spec = start_.start();
  const int64_t share = std::max<int64_t>(1, spec.share());
  const int threads = static_cast<int>(std::max<int64_t>(1, resources_.threads / share));
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<OwnedStageJob> owned,
                        OpenStageJob(spec, resources_.spill_folder, threads));
  std::unique_ptr<JobState> state;
  if (!spec.state().address().empty()) {
    CVXQ_ASSIGN_OR_RETURN(state,
                          JobState::OpenDigest(spec.state().address(), spec.state().digest()));
    owned->job->state = state.get();
    owned->job->save_seconds = spec.state().save_seconds();
  }
  int64_t memory = resources_.memory / 2;  // waves have the other half
  if (memory == 0) memory = std::max(kSmallModel, owned->files.checkpoint->total_bytes() / 10);
  CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                        MakeBackend(resources_.backend, threads));
  Stage stage(*owned->job, Place(), threads, memory / share, std::move(backend));
  CVXQ_RETURN_IF_ERROR(stage.Restore({.step = spec.state().step(), .waves = spec.state().waves()}));
  v1::Report ready;
  ready.mutable_done();
  Send(std::move(ready), start_.step());
  Log(LogLevel::kInfo, "stage ready",
      {{"job", start_.key().job()},
       {"stage", absl::StrCat(start_.key().stage())},
       {"behind_step", absl::StrCat(spec.state().step())},
       {"behind_waves", absl::StrCat(spec.state().waves())},
       {"seconds", absl::StrFormat("%.3f", absl::ToDoubleSeconds(absl::Now() - begin))}});
  Failpoint("stage-ready");
  for (;;) {
    CVXQ_ASSIGN_OR_RETURN(const v1::Command command, Next());
    StepMeter meter(resources_.metrics, command);
    CVXQ_RETURN_IF_ERROR(meter.End(CarryOut(stage, command)));
  }
}

Status WorkerStage::CarryOut(Stage& stage, const v1::Command& command) {
  std::atomic<int64_t> told = 0;
  Progress progress({.listener = [&](const ProgressUpdate& update) {
    if (update.kind != ProgressUpdate::Kind::kAdvance || update.count == told) return;
    told = update.count;
    v1::Report report;
    report.set_advanced(update.count);
    Send(std::move(report), command.step());
  }});
  auto phase = progress.Start("step", 0, "units");
  Cuts cuts(*this, command.step());
  times_ = {};
  v1::Report report;
  v1::Report::Done& done = *report.mutable_done();
  switch (command.command_case()) {
    case v1::Command::kGradients:
      Failpoint("stage-before-gradients");
      CVXQ_RETURN_IF_ERROR(stage.Gradients(phase, &cuts));
      done.set_damping(stage.output_damping());
      Failpoint("stage-after-gradients");
      break;
    case v1::Command::kMoments:
      Failpoint("stage-before-moments");
      CVXQ_RETURN_IF_ERROR(stage.Moments(phase));
      done.set_damping(stage.input_damping());
      Failpoint("stage-after-moments");
      break;
    case v1::Command::kOrder: {
      Failpoint("stage-before-order");
      CVXQ_ASSIGN_OR_RETURN(const EntropyOrder order, FromProto(command.order()));
      CVXQ_ASSIGN_OR_RETURN(const EntropyAnswer answer,
                            stage.CarryOut(order, command.job_step(), phase));
      *done.mutable_answer() = ToProto(answer);
      Failpoint("stage-after-order");
      break;
    }
    case v1::Command::kCollect: {
      Failpoint("stage-before-collect");
      const std::string& bytes = command.collect().tables();
      CVXQ_ASSIGN_OR_RETURN(
          const EntropyTables tables,
          EntropyTables::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
      CVXQ_RETURN_IF_ERROR(stage.Finish(&tables));
      for (const LinearPlan& plan : stage.plans()) {
        v1::Report linear;
        *linear.mutable_linear() = ToProto(plan);
        Send(std::move(linear), command.step());
        Failpoint("stage-linear-reported");
      }
      break;
    }
    case v1::Command::kSave:
      Failpoint("stage-before-save");
      if (const Status saved = stage.Save(command.save()); !saved.ok()) {
        *done.mutable_save_error() = ToProto(saved);
      }
      Failpoint("stage-after-save");
      break;
    default:
      return absl::InternalError("a stage was told what it does not know");
  }
  ToProto(times_, done);
  Send(std::move(report), command.step());
  Failpoint("stage-step-reported");
  return absl::OkStatus();
}

void WorkerStage::Send(v1::Report report, int64_t step) {
  if (stop_) return;
  *report.mutable_key() = start_.key();
  report.set_step(step);
  send_(report);
}

}  // namespace cvxq
