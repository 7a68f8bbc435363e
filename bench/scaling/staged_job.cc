#include "bench/scaling/staged_job.h"

#include <algorithm>
#include <cmath>

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
        blocks_(layout.stages[stage].size()),
        first_wave_(job.waves * replica / layout.replicas),
        last_wave_(job.waves * (replica + 1) / layout.replicas),
        sharing_(std::min(static_cast<double>(layout.replicas), layout.most_shared)) {}

  std::vector<TimelineOp> All() {
    Gradients();
    Meet();
    Moments();
    Meet();
    for (const CodingOrder& order : job_.orders) {
      const BlockRange& own = layout_.stages[stage_];
      const int64_t count =
          std::count_if(order.blocks.begin(), order.blocks.end(),
                        [&](int64_t block) { return block >= own.begin && block < own.end; });
      Work(static_cast<double>(count) * order.seconds / sharing_);
      Meet();
    }
    return std::move(ops_);
  }

 private:
  bool first() const { return stage_ == 0; }
  bool last() const { return stage_ + 1 == stages_; }

  // As GradientCollector::Run: as many forward passes ahead as there are stages behind.
  void Gradients() {
    const TaskCosts& costs = job_.costs;
    const double n = static_cast<double>(blocks_);
    const int64_t ahead = stages_ - stage_;
    for (int64_t forward = first_wave_, backward = first_wave_; backward < last_wave_;) {
      if (forward < last_wave_ && forward - backward < ahead) {
        if (!first()) Receive(kForward, stage_ - 1, forward);
        Work(n * costs.forward + (last() ? costs.head : 0));
        if (!last()) Send(kForward, stage_, forward);
        ++forward;
        continue;
      }
      if (!last()) Receive(kBackward, stage_, backward);
      Work(n * costs.backward);
      if (!first()) Send(kBackward, stage_ - 1, backward);
      ++backward;
    }
    Reduce(n * costs.reduce_outputs);
    Work(n * costs.factor_outputs / sharing_);
  }

  // As MomentCollector::Run: the waves go on when the last blocks of the stage have had them.
  void Moments() {
    const TaskCosts& costs = job_.costs;
    for (int64_t begin = 0; begin < blocks_; begin += layout_.blocks_at_once) {
      const int64_t end = std::min(begin + layout_.blocks_at_once, blocks_);
      const bool enters = begin == 0 && !first() && !layout_.inputs_kept;
      const bool leaves = end == blocks_ && !last() && !layout_.inputs_kept;
      for (int64_t wave = first_wave_; wave < last_wave_; ++wave) {
        if (enters) Receive(kMoments, stage_ - 1, wave);
        Work(static_cast<double>(end - begin) * costs.moments);
        if (leaves) Send(kMoments, stage_, wave);
      }
      Reduce(static_cast<double>(end - begin) * costs.reduce_inputs);
      Work(static_cast<double>(end - begin) * costs.factor_inputs / sharing_);
    }
  }

  enum Stream : int64_t { kForward, kBackward, kMoments, kStreams };
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
  // Every replica has it: the slowest is waited for at the end of the step.
  void Reduce(double seconds) {
    if (layout_.replicas > 1) Work(seconds);
  }

  const StagedJob& job_;
  const StageLayout& layout_;
  const int64_t replica_, stage_, stages_, blocks_, first_wave_, last_wave_;
  const double sharing_;
  int64_t meetings_ = 0;
  std::vector<TimelineOp> ops_;
};

}  // namespace

double WorkSeconds(const StagedJob& job) {
  const TaskCosts& c = job.costs;
  const double blocks = static_cast<double>(job.blocks), waves = static_cast<double>(job.waves);
  double seconds = blocks * waves * (c.forward + c.backward + c.moments) + waves * c.head +
                   blocks * (c.factor_outputs + c.factor_inputs);
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
  for (int64_t replica = 0; replica < layout.replicas; ++replica) {
    for (int64_t stage = 0; stage < stages; ++stage) {
      processes.push_back({.machine = layout.together ? 0 : replica * stages + stage,
                           .ops = Program(job, layout, replica, stage).All()});
    }
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
