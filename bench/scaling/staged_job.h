// A job cut into stages as a timeline: the steps that pipeline/stage.h and pipeline/gradients.h
// take, from what each task costs.
#ifndef CVXQ_BENCH_SCALING_STAGED_JOB_H_
#define CVXQ_BENCH_SCALING_STAGED_JOB_H_

#include <cstdint>
#include <vector>

#include "bench/scaling/timeline.h"
#include "pipeline/stage_place.h"

namespace cvxq {

// Seconds: of a block and a wave, unless said.
struct TaskCosts {
  double forward = 0, backward = 0, moments = 0;
  double head = 0;                               // of a wave
  double factor_outputs = 0, factor_inputs = 0;  // of a block
  double transfer = 0;                           // of a wave, for who receives it
  // Of a block: sums of one part put with those of the parts before, and sums from another replica.
  double fold_outputs = 0, fold_inputs = 0;
  double reduce_outputs = 0, reduce_inputs = 0;
  double step = 0;    // of the coordinator, after each step
  double around = 0;  // before the first step and after the last
};

// One order of rate control (pipeline/entropy_rate.h).
struct CodingOrder {
  std::vector<int64_t> blocks;
  double seconds = 0;  // of each block
};

struct StagedJob {
  int64_t blocks = 0, waves = 0;
  TaskCosts costs;
  std::vector<CodingOrder> orders;
};

// Who does it. Each replica is a whole pipeline that takes a share of the waves; of each block one
// replica has the sums of all, factors and codes it (pipeline/replicas.h).
struct StageLayout {
  std::vector<BlockRange> stages;
  int64_t replicas = 1;
  int64_t blocks_at_once = 1 << 30;  // whose moments a stage keeps at the same time
  // Moments take the inputs of the gradient pass, which stages have received already. Not so in the
  // product: they come from the stage before, once more.
  bool inputs_kept = false;
  // All processes on one machine; else each on its own.
  bool together = false;
  TimelineMachine machine;
  std::vector<TimelineLoss> losses;  // process = stage * replicas + replica
};

// Seconds of all tasks, with nothing between stages: what one processor would take.
double WorkSeconds(const StagedJob& job);

struct Prediction {
  double gradients = 0, moments = 0, orders = 0;  // seconds of each part, to the end of its steps
  double total = 0;
  double transfer = 0;  // of all that processes do
};

StatusOr<Prediction> Predict(const StagedJob& job, const StageLayout& layout);

// What rate control usually orders (pipeline/entropy_rate.cc): all foreseen, a quarter surveyed
// twice, all coded `passes` times, and trims.
std::vector<CodingOrder> UsualOrders(int64_t blocks, int64_t passes, double foresee, double code);

}  // namespace cvxq

#endif  // CVXQ_BENCH_SCALING_STAGED_JOB_H_
