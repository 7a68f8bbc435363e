#include "bench/scaling/timeline.h"

#include <algorithm>
#include <limits>

namespace cvxq {
namespace {

using Kind = TimelineOp::Kind;
constexpr double kNever = std::numeric_limits<double>::infinity();

class Run {
 public:
  Run(const std::vector<TimelineMachine>& machines, const std::vector<TimelineProcess>& processes,
      const std::vector<TimelineLoss>& losses)
      : machines_(machines), processes_(processes), losses_(losses), state_(processes.size()) {
    std::sort(losses_.begin(), losses_.end(),
              [](const TimelineLoss& a, const TimelineLoss& b) { return a.at < b.at; });
    int64_t messages = 0, meetings = 0;
    for (const TimelineProcess& process : processes) {
      for (const TimelineOp& op : process.ops) {
        const bool meets = op.kind == Kind::kMeet;
        if (meets) meetings = std::max(meetings, op.id + 1);
        if (!meets && op.kind != Kind::kWork) messages = std::max(messages, op.id + 1);
        if (op.kind == Kind::kWork) result_.work += op.seconds;
        if (op.kind == Kind::kReceive) result_.transfer += op.seconds;
      }
    }
    sent_.assign(messages, false);
    here_.assign(meetings, 0);
    result_.meetings.assign(meetings, kNever);
    result_.busy.assign(processes.size(), 0);
  }

  StatusOr<Timeline> All() {
    for (;;) {
      while (Settle()) {
      }
      if (done_ == processes_.size()) break;
      const double until = NextEvent();
      if (until == kNever) {
        return absl::FailedPreconditionError("processes wait for each other for ever");
      }
      Advance(until);
      Lose();
    }
    result_.seconds = now_;
    return result_;
  }

 private:
  struct State {
    size_t op = 0, met = 0;  // the next; meetings it has been at
    bool working = false;
    double left = 0;   // processor seconds of the op under way
    double begin = 0;  // not before
    bool done = false;
  };

  // Does all that takes no time; whether anything was done.
  bool Settle() {
    bool changed = false;
    for (size_t p = 0; p < processes_.size(); ++p) {
      while (Step(p)) changed = true;
    }
    return changed;
  }

  bool Step(size_t p) {
    State& state = state_[p];
    if (state.done || now_ < state.begin) return false;
    if (state.working) {
      if (state.left > 0) return false;
      state.working = false;
      return Next(p);
    }
    const TimelineOp& op = processes_[p].ops[state.op];
    switch (op.kind) {
      case Kind::kReceive:
        if (!sent_[op.id]) return false;
        [[fallthrough]];
      case Kind::kWork:
        state.working = true;
        state.left = op.seconds;
        return true;
      case Kind::kSend:
        sent_[op.id] = true;
        return Next(p);
      case Kind::kMeet:
        if (state.met <= static_cast<size_t>(op.id)) {  // not if it comes by once more
          state.met = op.id + 1;
          if (++here_[op.id] == processes_.size()) result_.meetings[op.id] = now_ + op.seconds;
        }
        return result_.meetings[op.id] <= now_ && Next(p);
    }
    return false;
  }

  bool Next(size_t p) {
    State& state = state_[p];
    if (++state.op < processes_[p].ops.size()) return true;
    state.done = true;
    ++done_;
    return true;
  }

  std::vector<double> Speeds() const {
    std::vector<double> working(machines_.size());
    for (size_t p = 0; p < processes_.size(); ++p) {
      if (state_[p].working) ++working[processes_[p].machine];
    }
    for (size_t m = 0; m < machines_.size(); ++m) {
      const double n = working[m];
      if (n > 1) working[m] = machines_[m].efficiency * std::min(n, machines_[m].processors) / n;
    }
    return working;
  }

  double NextEvent() {
    speeds_ = Speeds();
    double until = next_loss_ < losses_.size() ? losses_[next_loss_].at : kNever;
    for (const double at : result_.meetings) {
      if (at > now_) until = std::min(until, at);
    }
    for (size_t p = 0; p < processes_.size(); ++p) {
      const State& state = state_[p];
      if (state.working)
        until = std::min(until, now_ + state.left / speeds_[processes_[p].machine]);
      if (!state.done && state.begin > now_) until = std::min(until, state.begin);
    }
    return until;
  }

  void Advance(double until) {
    const double time = until - now_;
    for (size_t p = 0; p < processes_.size(); ++p) {
      State& state = state_[p];
      if (!state.working) continue;
      const double speed = speeds_[processes_[p].machine];
      // What is left of rounding would make events without end.
      const bool ends = now_ + state.left / speed <= until * (1 + 1e-12);
      state.left = ends ? 0 : state.left - time * speed;
      result_.busy[p] += time;
    }
    now_ = until;
  }

  void Lose() {
    for (; next_loss_ < losses_.size() && losses_[next_loss_].at <= now_; ++next_loss_) {
      const TimelineLoss& loss = losses_[next_loss_];
      State& state = state_[loss.process];
      if (state.done) continue;
      state.op = 0;
      state.working = false;
      state.begin = now_ + loss.seconds;
    }
  }

  const std::vector<TimelineMachine>& machines_;
  const std::vector<TimelineProcess>& processes_;
  std::vector<TimelineLoss> losses_;
  std::vector<State> state_;
  std::vector<bool> sent_;
  std::vector<size_t> here_;  // processes that have been at each meeting
  std::vector<double> speeds_;
  Timeline result_;
  double now_ = 0;
  size_t done_ = 0, next_loss_ = 0;
};

}  // namespace

StatusOr<Timeline> RunTimeline(const std::vector<TimelineMachine>& machines,
                               const std::vector<TimelineProcess>& processes,
                               const std::vector<TimelineLoss>& losses) {
  for (const TimelineProcess& process : processes) {
    if (process.ops.empty()) return absl::InvalidArgumentError("a process has nothing to do");
  }
  return Run(machines, processes, losses).All();
}

}  // namespace cvxq
