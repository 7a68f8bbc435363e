// Processes that work, send each other messages and meet, on machines whose processors they share:
// when everything happens. Pure, and exact but for rounding: between two events every process
// advances at a constant speed.
#ifndef CVXQ_BENCH_SCALING_TIMELINE_H_
#define CVXQ_BENCH_SCALING_TIMELINE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace cvxq {

struct TimelineOp {
  enum class Kind : uint8_t {
    kWork,     // takes `seconds` of a processor
    kSend,     // makes message `id` known, at once
    kReceive,  // waits for message `id`, then takes `seconds` of a processor
    kMeet,     // waits until all processes are at meeting `id`, and `seconds` more
  };
  Kind kind = Kind::kWork;
  double seconds = 0;
  int64_t id = 0;
};

struct TimelineMachine {
  double processors = 1;
  double efficiency = 1;  // of each where more than one process works
};

struct TimelineProcess {
  int64_t machine = 0;
  std::vector<TimelineOp> ops;
};

// The process loses all it has done, and begins again after `seconds`. What it sent stays known,
// meetings that were held are over.
struct TimelineLoss {
  int64_t process = 0;
  double at = 0, seconds = 0;
};

struct Timeline {
  double seconds = 0;             // until the last process ends
  std::vector<double> meetings;   // when each was over
  double work = 0, transfer = 0;  // processor seconds of kWork and kReceive, once for each op
  std::vector<double> busy;       // of each process: the time that it was not waiting
};

// kFailedPrecondition where processes wait for each other for ever.
StatusOr<Timeline> RunTimeline(const std::vector<TimelineMachine>& machines,
                               const std::vector<TimelineProcess>& processes,
                               const std::vector<TimelineLoss>& losses = {});

}  // namespace cvxq

#endif  // CVXQ_BENCH_SCALING_TIMELINE_H_
