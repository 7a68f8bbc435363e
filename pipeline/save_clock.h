// When what a job has done is saved: about so often, and never for more than a small part of the
// time.
//
//   SaveClock clock(60);
//   if (clock.Due()) {
//     const absl::Time begin = absl::Now();
//     ... save ...
//     clock.Saved(absl::Now() - begin);
//   }
#ifndef CVXQ_PIPELINE_SAVE_CLOCK_H_
#define CVXQ_PIPELINE_SAVE_CLOCK_H_

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace cvxq {

// Used from one thread at a time.
class SaveClock {
 public:
  // With 0 seconds it is always time.
  explicit SaveClock(double seconds)
      : interval_(absl::Seconds(seconds)), next_(absl::Now() + interval_) {}

  // (Whatever becomes of the system's clock.)
  bool Due() const { return interval_ == absl::ZeroDuration() || absl::Now() >= next_; }
  // All is saved, which took so long.
  void Saved(absl::Duration took) {
    const absl::Duration rest =
        interval_ > absl::ZeroDuration() ? std::max(interval_, kWork * took) : interval_;
    next_ = absl::Now() + rest;
  }

 private:
  static constexpr int kWork = 39;  // at least so many times what a save takes lies between two

  const absl::Duration interval_;
  absl::Time next_;  // not before
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_SAVE_CLOCK_H_
