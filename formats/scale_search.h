// The search for the scales of a block, weighted: what Fit of most types does (weight_type.h).
//
// A block has `subs` sub-blocks of `sub` columns. A value is
//   step q + offset,   step = d s,   offset = -m o   (m, o only where there are offsets)
// with q one of the type's levels, d and m halves of the block, s and o integers of the sub-block;
// types without sub-scales have s = 1, those without sub-offsets o = -1. The least sum of
// weight (x - value)^2 is sought in three steps:
//   1. each sub-block alone, in real numbers: for each trial inverse scale q is rounded, and the
//      best step (and offset) for these q is known in closed form; from the best of all trials it
//      goes on by rounding anew and solving anew (`polish` times);
//   2. d and m from the largest of these, s and o of each sub-block the best of the neighbours of
//      what was asked for, each tried exactly;
//   3. d and m solved anew for all q, s and o of the block, and again s and o (`rounds` times).
// The best block seen is kept.
#ifndef CVXQ_FORMATS_SCALE_SEARCH_H_
#define CVXQ_FORMATS_SCALE_SEARCH_H_

#include <stdint.h>

namespace cvxq {

enum class LevelKind : uint8_t {
  kUniform,  // the integers from lowest to highest
  kIq4,      // kIq4Levels
};

inline constexpr int kSearchLanes = 16;  // sub-blocks that are worked side by side

struct ScaleSearch {
  LevelKind levels = LevelKind::kUniform;
  int lowest = 0, highest = 0;  // levels
  bool has_offset = false;      // levels are 0 .. highest
  int64_t sub = 0;              // columns of a sub-block, a multiple of 16
  int subs = 1;                 // sub-blocks of a block; divides 16
  int least = 1, most = 1;      // of s; both 1: there are none
  int most_offset = 0;          // of o, from 0; 0: there are none, and offsets of either sign
  const float* trials = nullptr;
  // Inverse scales tried: trial / (largest |x|), with has_offset trial / (range of x).
  int trial_count = 0;
  int polish = 0, rounds = 0;
  // Starts of step 2: d such that the largest step has s = start[i].
  const int* starts = nullptr;
  int start_count = 0;
};

struct BlockScales {
  float d = 0, m = 0;  // halves, finite
  int16_t s[kSearchLanes] = {}, o[kSearchLanes] = {};
};

// The kernels for one instruction set; all give the same bits. Arrays need no alignment.
struct ScaleSearchKernels {
  // x, weight: [blocks * subs * sub]. blocks * subs <= kSearchLanes. Weights are not negative;
  // where all of a block are 0 they count the same. Blocks of nothing but |x| < 2^-100 have scales
  // of 0.
  void (*search)(const ScaleSearch& search, const float* x, const float* weight, int blocks,
                 BlockScales* scales);
  // For levels of twice E2M1 (0, 1, 2, 3, 4, 6, 8, 12 and their negatives): in each lane the trial
  // of least error. steps[trials, kSearchLanes] are tried as they are, x and weight are [lanes,
  // sub], best [kSearchLanes]. Ties go to the first.
  void (*pick_step)(int64_t sub, const float* x, const float* weight, int lanes, const float* steps,
                    int trials, int* best);
  // codes[subs, sub]: the nearest of the ascending levels[level_count] to (x - offset) / step.
  // `edges` [level_count - 1] lie halfway between levels, which are taken by those above them;
  // nullptr: levels are integers, each one more than the one before, and ties go to the even.
  // step, offset: [subs]; offset may be nullptr.
  void (*nearest)(const float* levels, const float* edges, int level_count, int64_t sub,
                  const float* x, const float* step, const float* offset, int64_t subs,
                  uint8_t* codes);
};

extern const ScaleSearchKernels kScaleSearchBaseline, kScaleSearchAvx2, kScaleSearchAvx512;

// Those for this CPU.
const ScaleSearchKernels& ScaleSearchHere();

extern const float kIq4Levels[16];

}  // namespace cvxq

#endif  // CVXQ_FORMATS_SCALE_SEARCH_H_
