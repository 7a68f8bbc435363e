#include "bench/scaling/staged_job.h"

#include <algorithm>
#include <cmath>

#include "pipeline/replicas.h"

namespace cvxq {
namespace {

using Kind = TimelineOp::Kind;

// The program of one stage of one replica.
class Program {
 public:
  Program(const StagedJob& job, const StageLayout& layout, int64_t replica, int64_t stage)
      : job_(job),
        layout_(layout),
        replica_(replica),
        stage_(stage),
        stages_(static_cast<int64_t>(layout.stages.size())),
        own_(OwnedBlocks(layout.stages[stage], replica, layout.replicas)),
        parts_(PartsOf(job.waves, replica, layout.replicas)),
        waves_(WavesOf(job.waves, parts_)) {}

  std::vector<TimelineOp> All() {
    Gradients();
    Meet();
    Moments();
    Meet();
    for (const CodingOrder& order : job_.orders) {
      const int64_t count = std::count_if(order.blocks.begin(), order.blocks.end(),
                                          [&](int64_t block) { return Owns(block); });
      Work(static_cast<double>(count) * order.seconds);
      Meet();
    }
    return std::move(ops_);
  }

 private:
  bool first() const { return stage_ == 0; }
  bool last() const { return stage_ + 1 == stages_; }
  bool Owns(int64_t block) const { return block >= own_.begin && block < own_.end; }

  // As GradientCollector::Run: as many forward passes ahead as there are stages behind.
  void Gradients() {
    const TaskCosts& costs = job_.costs;
    const BlockRange& blocks = layout_.stages[stage_];
    const double n = static_cast<double>(blocks.size());
    const int64_t ahead = stages_ - stage_;
    for (int64_t forward = waves_.begin, backward = waves_.begin; backward < waves_.end;) {
      if (forward < waves_.end && forward - backward < ahead) {
        if (!first()) Receive(kForward, stage_ - 1, forward);
        Work(n * costs.forward + (last() ? costs.head : 0));
        if (!last()) Send(kForward, stage_, forward);
        ++forward;
        continue;
      }
      if (!last()) Receive(kBackward, stage_, backward);
      Work(n * costs.backward);
      if (!first()) Send(kBackward, stage_ - 1, backward);
      if (EndsPart(++backward)) Work(n * costs.fold_outputs);
    }
    Exchange(blocks, /*pass=*/0, costs.reduce_outputs);
    Work(static_cast<double>(own_.size()) * costs.factor_outputs);
  }

  // As MomentCollector::Run: the waves go on when the last blocks of the stage have had them.
  void Moments() {
    const TaskCosts& costs = job_.costs;
    const BlockRange& all = layout_.stages[stage_];
    for (int64_t begin = all.begin; begin < all.end; begin += layout_.blocks_at_once) {
      const BlockRange blocks = {begin, std::min(begin + layout_.blocks_at_once, all.end)};
      const double n = static_cast<double>(blocks.size());
      const bool enters = begin == all.begin && !first() && !layout_.inputs_kept;
      const bool leaves = blocks.end == all.end && !last() && !layout_.inputs_kept;
      for (int64_t wave = waves_.begin; wave < waves_.end; ++wave) {
        if (enters) Receive(kMoments, stage_ - 1, wave);
        Work(n * costs.moments);
        if (leaves) Send(kMoments, stage_, wave);
        if (EndsPart(wave + 1)) Work(n * costs.fold_inputs);
      }
      Exchange(blocks, /*pass=*/1, costs.reduce_inputs);
      const int64_t owned = std::min(own_.end, blocks.end) - std::max(own_.begin, blocks.begin);
      Work(static_cast<double>(std::max<int64_t>(owned, 0)) * costs.factor_inputs);
    }
  }

  // As PartSums: all that others own is given, then all that is owned is waited for.
  void Exchange(const BlockRange& blocks, int64_t pass, double seconds) {
    const auto message = [&](int64_t block, int64_t replica) {
      return ((block * 2 + pass) * layout_.replicas + replica) * kStreams + kSums;
    };
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      if (!Owns(block)) ops_.push_back({Kind::kSend, 0, message(block, replica_)});
    }
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      for (int64_t other = 0; Owns(block) && other < layout_.replicas; ++other) {
        if (other == replica_) continue;
        const size_t subtrees = Subtrees(PartsOf(job_.waves, other, layout_.replicas)).size();
        ops_.push_back(
            {Kind::kReceive, static_cast<double>(subtrees) * seconds, message(block, other)});
      }
    }
  }
  bool EndsPart(int64_t waves) const {
    for (int64_t part = parts_.begin + 1; part < parts_.end; ++part) {
      if (WavesOf(job_.waves, {part, part}).begin == waves) return true;
    }
    return false;
  }

  enum Stream : int64_t { kForward, kBackward, kMoments, kSums, kStreams };
  int64_t Message(Stream stream, int64_t boundary, int64_t wave) const {
    return (wave * stages_ + boundary) * kStreams + stream;  // a wave is of one replica
  }
  void Work(double seconds) { ops_.push_back({Kind::kWork, seconds, 0}); }
  void Send(Stream stream, int64_t boundary, int64_t wave) {
    ops_.push_back({Kind::kSend, 0, Message(stream, boundary, wave)});
  }
  void Receive(Stream stream, int64_t boundary, int64_t wave) {
    ops_.push_back({Kind::kReceive, job_.costs.transfer, Message(stream, boundary, wave)});
  }
  void Meet() { ops_.push_back({Kind::kMeet, job_.costs.step, meetings_++}); }

  const StagedJob& job_;
  const StageLayout& layout_;
  const int64_t replica_, stage_, stages_;
  const BlockRange own_;
  const WaveRange parts_, waves_;
  int64_t meetings_ = 0;
  std::vector<TimelineOp> ops_;
};

}  // namespace

double WorkSeconds(const StagedJob& job) {
  const TaskCosts& c = job.costs;
  const double blocks = static_cast<double>(job.blocks), waves = static_cast<double>(job.waves);
  double seconds = blocks * waves * (c.forward + c.backward + c.moments) + waves * c.head +
                   blocks * (c.factor_outputs + c.factor_inputs);
  seconds +=
      blocks * static_cast<double>(PartCount(job.waves) - 1) * (c.fold_outputs + c.fold_inputs);
  for (const CodingOrder& order : job.orders) {
    seconds += static_cast<double>(order.blocks.size()) * order.seconds;
  }
  return seconds;
}

StatusOr<Prediction> Predict(const StagedJob& job, const StageLayout& layout) {
  const int64_t stages = static_cast<int64_t>(layout.stages.size());
  const int64_t count = stages * layout.replicas;
  const std::vector<TimelineMachine> machines(layout.together ? 1 : count, layout.machine);
  std::vector<TimelineProcess> processes;
  for (int64_t i = 0; i < count; ++i) {
    processes.push_back(
        {.machine = layout.together ? 0 : i,
         .ops = Program(job, layout, i % layout.replicas, i / layout.replicas).All()});
  }
  CVXQ_ASSIGN_OR_RETURN(const Timeline timeline, RunTimeline(machines, processes, layout.losses));
  Prediction prediction;
  prediction.gradients = timeline.meetings[0];
  prediction.moments = timeline.meetings[1] - timeline.meetings[0];
  prediction.orders = timeline.meetings.back() - timeline.meetings[1];
  prediction.total = timeline.seconds + job.costs.around;
  prediction.transfer = timeline.transfer / (timeline.transfer + timeline.work);
  return prediction;
}

std::vector<CodingOrder> UsualOrders(int64_t blocks, int64_t passes, double foresee, double code) {
  constexpr int64_t kSurveyStride = 4, kTrimShare = 4;
  CodingOrder all{{}, code}, survey{{}, code}, trim{{}, code};
  for (int64_t block = 0; block < blocks; ++block) {
    all.blocks.push_back(block);
    if (block % kSurveyStride == 0) survey.blocks.push_back(block);
    if (block % kTrimShare == kTrimShare / 2) trim.blocks.push_back(block);
  }
  std::vector<CodingOrder> orders = {{all.blocks, foresee}, survey, survey};
  orders.insert(orders.end(), passes, all);
  orders.push_back(trim);
  // What is left is a tenth of it each time.
  for (size_t left = trim.blocks.size() / 10; left > 0; left /= 10) {
    orders.push_back(
        {{trim.blocks.begin(), trim.blocks.begin() + static_cast<int64_t>(left)}, code});
  }
  return orders;
}

}  // namespace cvxq
