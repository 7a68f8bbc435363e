// Coding a matrix on the grids of a type: scales by search, weighted by the curvature, then codes
// by error feedback, one- or two-sided (quant/feedback.h).
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
  // The factor of H_I; its conditional variances D_I weigh columns in the search for scales.
  // nullptr: no feedback between columns, and `column_weight` [N] (or empty: all 1) in their place.
  const CurvatureFactor* inputs = nullptr;
  std::span<const float> column_weight;
  // Rows that feed one another (two-sided), or none: rows are independent.
  std::span<const RowBlock> blocks;
  // D_O [M] of the distortion; empty: all 1.
  std::span<const float> row_weight;
};

// How often scales are fitted anew to what feedback made of the weights, and these coded again.
inline constexpr int kGridRefits = 1;

// Fits, codes, and sums up the distortion. The same result for any number of threads. `type` is a
// grid whose blocks the columns fill.
GridMatrix CodeOnGrids(const GridInput& input, const WeightType& type, ThreadPool& pool,
                       int refits = kGridRefits);

// Scales by the same search, codes nearest: without any feedback, each weight counting the same.
GridMatrix CodeNearest(const GridInput& input, const WeightType& type, ThreadPool& pool);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GRID_CODER_H_
