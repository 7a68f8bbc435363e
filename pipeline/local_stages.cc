#include "pipeline/local_stages.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/interrupt.h"

namespace cvxq {
namespace {

// Waves of a stream that may wait for the slower side. Gradient passes bound themselves; moments
// would run through the whole calibration set.
constexpr size_t kWaitingMoments = 4;

}  // namespace

// Waits are cut short once `Stop` was called.
class LocalStages::Boundary : public StageBoundary {
 public:
  explicit Boundary(SpillStore& store) : store_(store) {}

  Status Send(Stream stream, int64_t number, std::span<const float> values) override {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] {
        return stopped_ || ended_ || stream != Stream::kMoments ||
               Waiting(stream).size() < kWaitingMoments;
      });
      if (stopped_) return absl::AbortedError("a neighbouring stage failed");
      if (ended_) return absl::OkStatus();
    }
    CVXQ_ASSIGN_OR_RETURN(const SpillStore::Handle handle, store_.Put(values));
    const std::lock_guard lock(mutex_);
    Waiting(stream)[number] = handle;
    changed_.notify_all();
    return absl::OkStatus();
  }

  Status Receive(Stream stream, int64_t number, std::span<float> values) override {
    SpillStore::Handle handle = -1;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || Waiting(stream).contains(number); });
      if (stopped_) return absl::AbortedError("a neighbouring stage failed");
      handle = Waiting(stream).extract(number).mapped();
      changed_.notify_all();
    }
    CVXQ_RETURN_IF_ERROR(store_.Get(handle, values));
    store_.Drop(handle);
    return absl::OkStatus();
  }

  // A step begins: what nobody has asked for in the one before is dropped.
  void Begin() {
    ended_ = false;
    for (auto& waiting : waiting_) {
      for (const auto& [number, handle] : waiting) store_.Drop(handle);
      waiting.clear();
    }
  }
  // The stage behind has done the step, and takes nothing more: it may have had all from the state.
  void End() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  void Stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

 private:
  std::map<int64_t, SpillStore::Handle>& Waiting(Stream stream) {
    return waiting_[static_cast<int>(stream)];
  }

  SpillStore& store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<std::map<int64_t, SpillStore::Handle>, kStreams> waiting_;  // by stream and number
  bool stopped_ = false, ended_ = false;
};

StatusOr<std::unique_ptr<LocalStages>> LocalStages::Make(StageJob job, int64_t workers, int threads,
                                                         int64_t memory) {
  std::unique_ptr<LocalStages> made(new LocalStages(std::move(job), workers, memory));
  CVXQ_RETURN_IF_ERROR(made->AddStages(threads, memory));
  return made;
}

LocalStages::LocalStages(StageJob job, int64_t workers, int64_t memory)
    : job_(std::move(job)),
      layout_(LayoutOf(job_, workers, job_.options.replicas)),
      waves_("", std::numeric_limits<int64_t>::max()),
      sums_(job_.spill_folder, memory / 4) {}

Status LocalStages::AddStages(int threads, int64_t memory) {
  const int64_t stages = layout_.stages, replicas = layout_.replicas, count = stages * replicas;
  const std::vector<BlockRange> ranges = CutStages(job_.files.spec, stages);
  for (int64_t i = 0; i + replicas < count; ++i) {
    boundaries_.push_back(std::make_unique<Boundary>(waves_));
  }
  for (int64_t stage = 0; stage < stages; ++stage) {
    between_replicas_.push_back(std::make_unique<Boundary>(sums_));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t stage = i / replicas, replica = i % replicas;
    const StagePlace place{
        .blocks = ranges[stage],
        .before = stage > 0 ? boundaries_[i - replicas].get() : nullptr,
        .after = stage + 1 < stages ? boundaries_[i].get() : nullptr,
        .waves_ahead = stages - stage,
        .owned = OwnedBlocks(ranges[stage], replica, replicas),
        .replica = replica,
        .replicas = replicas,
        .peers = std::vector<StageBoundary*>(replicas, between_replicas_[stage].get())};
    const int share = std::max(1, static_cast<int>((threads + count - 1 - i) / count));
    CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                          MakeBackend(job_.options.backend, share));
    stages_.push_back(
        std::make_unique<Stage>(job_, place, share, memory / count, std::move(backend)));
  }
  return absl::OkStatus();
}

LocalStages::~LocalStages() = default;

Status LocalStages::Each(const std::function<Status(Stage&, size_t)>& step) {
  std::vector<Status> status(stages_.size());
  const std::atomic<bool>* stop = StopScope::Current();
  for (const auto& boundary : boundaries_) boundary->Begin();
  for (const auto& boundary : between_replicas_) boundary->Begin();
  const size_t replicas = static_cast<size_t>(layout_.replicas);
  const auto run = [&](size_t i) {
    status[i] = step(*stages_[i], i);
    if (status[i].ok()) {
      if (i >= replicas) boundaries_[i - replicas]->End();
      return;
    }
    for (const auto& boundary : boundaries_) boundary->Stop();
    for (const auto& boundary : between_replicas_) boundary->Stop();
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < stages_.size(); ++i) {
    threads.emplace_back([&, i] {
      const StopScope scope(stop);
      run(i);
    });
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
  // What stopped the others says only that.
  for (const Status& s : status) {
    if (!s.ok() && !absl::IsAborted(s)) return s;
  }
  for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

// Has all stages save at the same wave: the first that none of them has reached when it is time.
class LocalStages::Cuts {
 public:
  Cuts(WaveCommits& commits, size_t stages) : commits_(commits), reached_(stages) {}

  // As stage `stage` sees it.
  class OfStage : public WaveCuts {
   public:
    OfStage(Cuts& cuts, size_t stage) : cuts_(cuts), stage_(stage) {}
    bool Wanted(int64_t waves) override { return cuts_.Wanted(stage_, waves); }
    void Saved(int64_t, const Status& status, absl::Duration took) override {
      cuts_.Saved(status, took);
    }

   private:
    Cuts& cuts_;
    const size_t stage_;
  };

 private:
  bool Wanted(size_t stage, int64_t waves) {
    const std::lock_guard lock(mutex_);
    reached_[stage] = waves;
    if (cut_ == 0 && commits_.Due()) {
      // The others have gone by the waves that they have asked about.
      cut_ = waves;
      for (size_t i = 0; i < reached_.size(); ++i) {
        if (i != stage) cut_ = std::max(cut_, reached_[i] + 1);
      }
    }
    return waves == cut_;
  }
  void Saved(const Status& status, absl::Duration took) {
    const std::lock_guard lock(mutex_);
    status_.Update(status);
    longest_ = std::max(longest_, took);
    if (++saved_ < reached_.size()) return;
    if (status_.ok()) {
      commits_.Commit(std::exchange(cut_, 0), std::exchange(longest_, absl::ZeroDuration()));
    } else {
      commits_.GiveUp(status_);
    }
    saved_ = 0;
  }

  WaveCommits& commits_;
  std::mutex mutex_;
  std::vector<int64_t> reached_;  // waves, by stage
  int64_t cut_ = 0;               // where the next save is; 0: not known
  size_t saved_ = 0;              // stages that have saved there, or tried to
  absl::Duration longest_;        // that it took one of them
  Status status_;
};

Status LocalStages::Restore(const JobPosition& position) {
  CVXQ_RETURN_IF_ERROR(CheckRestorable(position, layout_));
  for (const auto& stage : stages_) CVXQ_RETURN_IF_ERROR(stage->Restore(position));
  return absl::OkStatus();
}

StatusOr<double> LocalStages::Gradients(Progress& progress, WaveCommits* commits) {
  auto phase = progress.Start(job_.needs.group_gradients ? "survey" : "gradients",
                              job_.gradients.samples * layout_.stages, "sequences");
  std::optional<Cuts> cuts;
  if (commits != nullptr && layout_.replicas == 1) cuts.emplace(*commits, stages_.size());
  CVXQ_RETURN_IF_ERROR(Each([&](Stage& stage, size_t i) {
    if (!cuts) return stage.Gradients(phase, nullptr);
    Cuts::OfStage own(*cuts, i);
    return stage.Gradients(phase, &own);
  }));
  phase.Done();
  double damping = 0;
  for (const auto& stage : stages_) damping = std::max(damping, stage->output_damping());
  return damping;
}

Status LocalStages::MoreGradients(const GradientPass& pass, int64_t step, Progress& progress,
                                  WaveCommits* commits) {
  auto phase = progress.Start("gradients", pass.options.samples, "sequences");
  std::optional<Cuts> cuts;
  std::optional<Cuts::OfStage> own;
  if (commits != nullptr) own.emplace(cuts.emplace(*commits, stages_.size()), 0);
  CVXQ_RETURN_IF_ERROR(stages_[0]->MoreGradients(pass, step, phase, own ? &*own : nullptr));
  phase.Done();
  return absl::OkStatus();
}

Status LocalStages::LoadAverages(int64_t step) { return stages_[0]->LoadAverages(step); }

StatusOr<double> LocalStages::Moments(Progress& progress) {
  auto phase = progress.Start("input moments", job_.files.spec.layers, "blocks");
  CVXQ_RETURN_IF_ERROR(Each([&](Stage& stage, size_t) { return stage.Moments(phase); }));
  phase.Done();
  double damping = 0;
  for (const auto& stage : stages_) damping = std::max(damping, stage->input_damping());
  return damping;
}

StatusOr<EntropyAnswer> LocalStages::CarryOut(const EntropyOrder& order, int64_t step,
                                              Progress::Phase& phase) {
  std::vector<EntropyAnswer> parts(stages_.size());
  CVXQ_RETURN_IF_ERROR(Each([&](Stage& stage, size_t i) -> Status {
    CVXQ_ASSIGN_OR_RETURN(parts[i], stage.CarryOut(order, step, phase));
    return absl::OkStatus();
  }));
  EntropyAnswer answer;
  for (EntropyAnswer& part : parts) answer.Append(std::move(part));
  return answer;
}

Status LocalStages::Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans) {
  CVXQ_RETURN_IF_ERROR(Each([&](Stage& stage, size_t) { return stage.Finish(tables); }));
  for (const auto& stage : stages_) {
    if (&stage->plans() == &plans) continue;
    for (LinearPlan& plan : stage->plans()) {
      const int64_t index = plan.index;
      plans[index] = std::move(plan);
    }
  }
  return absl::OkStatus();
}

Status LocalStages::Save(int64_t step) {
  for (const auto& stage : stages_) CVXQ_RETURN_IF_ERROR(stage->Save(step));
  return absl::OkStatus();
}

}  // namespace cvxq
