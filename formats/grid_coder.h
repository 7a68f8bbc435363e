// Coding a matrix on the grids of a type: scales by search, weighted by the curvature, then codes
// by error feedback, one- or two-sided (quant/feedback.h).
//
// What was found on a fifth of the linears of a small Llama, two-sided, sum of D_O D_I error^2:
// - order of work: columns and rows with the largest diagonals first (WorkOrder::kLargestFirst);
//   the least columns first give 1.3 to 1.6 times as much, columns as they come 1.14 to 1.2, rows
//   as they come 1.07;
// - weights of columns in the search: the geometric mean of D_I and the diagonal of H_I; D_I alone
//   gives 1.02 (16 levels) to 1.08 (4 levels) times as much, equal weights 1.00 to 1.03;
// - grids wider than the weights ask for: feedback spreads what is rounded. Scales fitted to 1.13 w
//   (4 levels), 1.05 w (8), 1.012 w (16) give .78, .93, .98 to 1.0 of those fitted to w; with more
//   levels, and beyond these, it is worse. Narrower grids are always worse;
// - a refit on targets brings .98 to .99 more where it goes 0.15 to 0.3 of the way from the weights
//   to the targets, all the way little or nothing (what is fed back is then another), a second one
//   next to nothing.
#ifndef CVXQ_FORMATS_GRID_CODER_H_
#define CVXQ_FORMATS_GRID_CODER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "formats/weight_type.h"
#include "quant/curvature.h"
#include "quant/feedback.h"

namespace cvxq {

// One matrix to be coded. All that is referred to outlives the call.
struct GridInput {
  const float* w = nullptr;  // [M, N], finite
  int64_t rows = 0, columns = 0;
  // The factor of H_I. nullptr: no feedback between columns, and `column_weight` [N] (or empty: all
  // 1) stands for D_I in the distortion and in the search for scales.
  const CurvatureFactor* inputs = nullptr;
  std::span<const float> column_weight;
  // Rows that feed one another (two-sided), or none: rows are independent.
  std::span<const RowBlock> blocks;
  // D_O [M] of the distortion; empty: all 1.
  std::span<const float> row_weight;
};

// How often scales are fitted anew to what feedback made of the weights, and these coded again. The
// time of one more coding each, for one or two percent of distortion.
inline constexpr int kGridRefits = 1;

// Fits, codes, and sums up the distortion; of all fits the best is kept. The same result for any
// number of threads. `type` is a grid whose blocks the columns fill. Memory: codes and fields, with
// refits twice, and M N floats.
GridMatrix CodeOnGrids(const GridInput& input, const WeightType& type, ThreadPool& pool,
                       int refits = kGridRefits);

// Scales by the same search, codes nearest: without any feedback, each weight counting the same.
GridMatrix CodeNearest(const GridInput& input, const WeightType& type, ThreadPool& pool);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GRID_CODER_H_
