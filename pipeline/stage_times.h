// Where the time of a stage goes, by kind of task:
//
//   { const StageTimes::Timer timer(times, StageTask::kForward, blocks);  ...work... }
#ifndef CVXQ_PIPELINE_STAGE_TIMES_H_
#define CVXQ_PIPELINE_STAGE_TIMES_H_

#include <array>
#include <chrono>
#include <cstdint>

namespace cvxq {

// Counted in blocks, but for the head (waves) and what passes between stages (waves).
enum class StageTask : uint8_t {
  kForward,        // of the gradient pass
  kHead,           // logits, labels, their gradient
  kBackward,       // with all sums
  kFactorOutputs,  // H_O
  kMoments,        // forward, with the sums of H_I
  kFactorInputs,   // H_I
  kReduce,         // sums of parts of the waves, of each pass (replicas.h)
  kForesee,
  kCode,
  kWaiting,   // for a neighbour that still computes
  kTransfer,  // of waves, to and from neighbours
};
inline constexpr int kStageTaskCount = 11;
inline constexpr std::array<const char*, kStageTaskCount> kStageTaskNames = {
    "forward", "head",    "backward", "factor_outputs", "moments", "factor_inputs",
    "reduce",  "foresee", "code",     "waiting",        "transfer"};

// Used from the stage's thread alone.
class StageTimes {
 public:
  struct Sum {
    int64_t count = 0;
    double seconds = 0;
  };

  // Adds the time from here to its end. `times` may be nullptr.
  class Timer {
   public:
    Timer(StageTimes* times, StageTask task, int64_t count = 1)
        : times_(times), task_(task), count_(count) {}
    ~Timer() {
      if (times_ != nullptr) times_->Add(task_, count_, Seconds(Clock::now() - start_));
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    StageTimes* const times_;
    const StageTask task_;
    const int64_t count_;
    const std::chrono::steady_clock::time_point start_ = Clock::now();
  };

  void Add(StageTask task, int64_t count, double seconds) {
    sums_[static_cast<int>(task)].count += count;
    sums_[static_cast<int>(task)].seconds += seconds;
  }
  const Sum& of(StageTask task) const { return sums_[static_cast<int>(task)]; }

 private:
  using Clock = std::chrono::steady_clock;
  static double Seconds(Clock::duration time) {
    return std::chrono::duration<double>(time).count();
  }

  std::array<Sum, kStageTaskCount> sums_ = {};
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_STAGE_TIMES_H_
