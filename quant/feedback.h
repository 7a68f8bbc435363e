// Error feedback: rounding a matrix so that the weights still to be rounded make up for the errors
// of those before, for any rounding rule.
//
// The distortion of an error E of W [M, N] is tr(H_O E H_I E^T) with the curvature of the outputs
// H_O and of the inputs H_I. With H = L D L^T (L unit lower) it is
//   sum_rc D_O[r] D_I[c] (L_O^T E L_I)_rc^2.
// Work from the last row and column back and round
//   t_rc = w_rc - sum over (r', c') >= (r, c), not equal, of L_O[r', r] E[r', c'] L_I[c', c];
// then (L_O^T E L_I)_rc is the rounding error of t_rc alone. (Two-sided: the form is that of YAQA,
// arXiv 2505.22988. H_O ~ I gives the one-sided kind, GPTQ, arXiv 2210.17323.)
//
// With A = L_O^T E the sum splits: over later columns, A[r, c'] L_I[c', c], the one-sided feedback
// with A in place of E; and over later rows of the same column, L_O[r', r] E[r', c]. So the work is
// cut in tiles of rows x columns; what a tile owes to the tiles after it are two matrix products,
// and the rest stays inside the tile.
#ifndef CVXQ_QUANT_FEEDBACK_H_
#define CVXQ_QUANT_FEEDBACK_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "quant/curvature.h"

namespace cvxq {

enum class Feedback : uint8_t { kNone, kOne, kTwo };

// Rows that may make up for one another's errors. Blocks are independent.
struct RowBlock {
  std::vector<int32_t> rows;  // W's row in each place
  std::vector<float> lower;   // L_O [n, n] in the order of the places, unit lower; empty: rows are
                              // independent of one another (one-sided)
};

// One column of a tile, as a rule sees it. Rows are in places [0, rows) of the tile.
struct ColumnTile {
  int64_t column = 0;  // W's own index
  int64_t rows = 0;
  const int32_t* row = nullptr;     // W's own indices [rows]
  int64_t block = 0, first = 0;     // which row block, and the tile's first place in it
  const float* original = nullptr;  // W's values [rows]
  const float* lower = nullptr;     // L_O of these rows [rows, rows]; nullptr: one-sided
  int64_t stride = 0;               // floats from one row of `lower` to the next
};

// Rounds one column of a tile. target[rows] holds t without the feedback of the tile's own rows;
// the rule rounds from the last place back, adds that feedback (RoundRows does), leaves in target
// the values that were rounded, t itself, and in rounded the values of W after rounding. Called
// once for each tile and column; columns of one block of rows come in the order of work, tiles that
// do not depend on each other from several threads at once.
using RoundColumn = std::function<void(const ColumnTile& tile, float* target, float* rounded)>;

// The loop of a rule that rounds weight by weight: round(place, t) gives the rounded value.
template <typename Round>
void RoundRows(const ColumnTile& tile, float* target, float* rounded, Round&& round) {
  for (int64_t r = tile.rows - 1; r >= 0; --r) {
    rounded[r] = round(r, target[r]);
    if (tile.lower == nullptr) continue;
    const float error = rounded[r] - tile.original[r];
    const float* l = tile.lower + r * tile.stride;
    for (int64_t i = 0; i < r; ++i) target[i] -= l[i] * error;
  }
}

struct FeedbackInput {
  const float* w = nullptr;  // [M, N]
  int64_t rows = 0, columns = 0;
  const CurvatureFactor* inputs = nullptr;  // of H_I; nullptr: no feedback between columns
  std::span<const RowBlock> blocks;         // together all rows, each once
  int64_t tile_rows = 64;                   // tiles are cut from the first place of each block
};

// Memory: two floats a weight for each block with a `lower`, for the others tile_rows x N. The same
// result for any number of threads.
void RoundWithFeedback(const FeedbackInput& input, ThreadPool& pool, const RoundColumn& round);

// The same by the definition above, weight by weight in double: O(M^2 N^2). For tests.
void RoundWithFeedbackReference(const FeedbackInput& input, const RoundColumn& round);

}  // namespace cvxq

#endif  // CVXQ_QUANT_FEEDBACK_H_
