// The codecs of the affine form (kernels/affine_matrix.h): rounding to nearest and three published
// methods, as baselines and for engines that load nothing else.
//   rtn   nearest, on grids from the least to the largest weight of each group
//   gptq  error feedback (arXiv 2210.17323), or its two-sided kind
//   awq   input channels scaled by a search, then ranges clipped (arXiv 2306.00978)
//   owq   the most sensitive columns kept as halves, the others by gptq (arXiv 2306.02272)
// Weights must be finite. Results are the same for any number of threads.
#ifndef CVXQ_QUANT_AFFINE_CODECS_H_
#define CVXQ_QUANT_AFFINE_CODECS_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/affine_matrix.h"
#include "quant/curvature.h"
#include "quant/feedback.h"
#include "quant/rounder.h"

namespace cvxq {

// One linear to be coded. Everything referred to outlives the call.
struct AffineInput {
  const float* w = nullptr;  // [M, N]
  int64_t rows = 0, columns = 0;
  int bits = 4;  // of a code, 2..8
  int64_t group = 128;
  // The factor of H_I: gptq and owq work columns in its order (nullptr: no feedback between
  // columns), awq needs it to measure errors.
  const CurvatureFactor* inputs = nullptr;
};

AffineMatrix CodeRtn(const AffineInput& input, ThreadPool& pool);

// From what the grid of a group is made.
enum class GroupRange : uint8_t {
  kReached,   // the range of what feedback has made of its weights when the first of its columns is
              // reached: the paper's way, with WorkOrder::kFirstFirst and independent rows. Takes
              // one float a weight and twice the arithmetic
  kOriginal,  // the range of the weights themselves; any order
  kTrimmed,   // TrimmedShare (affine.h) of that: the least error in any order, above all two-sided
};

// `blocks` are those of FeedbackInput: rows that feed each other, or all rows in blocks without
// `lower`. The paper: the latter, WorkOrder::kFirstFirst, kReached; its act-order: kLargestFirst,
// kOriginal. Two-sided: kLargestFirst for columns and rows, kTrimmed.
// kReached rounds on the host's threads; the others with `rounder`, whose errors it gives.
StatusOr<AffineMatrix> CodeGptq(const AffineInput& input, std::span<const RowBlock> blocks,
                                GroupRange range, ThreadPool& pool, Rounder& rounder);

// awq tries the exponents alpha = i / 20, i = 0..19, of the scale of input channel c,
//   s_c = E[x_c^2]^(alpha / 2), divided by sqrt(max s * min s),
// and takes that of least tr(E H_I E^T). (The paper has the mean of |x_c| in place of the root of
// the second moment.) Linears that read the same input share the exponent: sum their errors.
inline constexpr int kAwqExponents = 20;
using AwqErrors = std::array<double, kAwqExponents>;
// `moments` are E[x_c^2] [N], the diagonal of H_I. Time: kAwqExponents times N^2 M / 2.
AwqErrors MeasureAwqErrors(const AffineInput& input, std::span<const float> moments,
                           ThreadPool& pool);
// The first of the least.
int BestAwqExponent(const AwqErrors& errors);
// `clip`: each group's range is cut to a share of its largest |w|, 1 to 0.55 in steps of 0.05, of
// least error with its own block of H_I. (The paper's program leaves the queries and keys of
// attention unclipped.)
AffineMatrix CodeAwq(const AffineInput& input, std::span<const float> moments, int exponent,
                     bool clip, ThreadPool& pool);

// owq at an average width of `bits`, 2 to below 9 (3.01: codes of 3 bits): as many columns are kept
// as halves as that allows, those of largest E[x_c^2] * sum_r (error of rtn)^2. They are worked
// last, so that they make up for the errors of all others. input.bits is not read; an `inputs` in
// the order kLargestFirst is the paper's. Errors: of FactorInOrder and of the rounder.
StatusOr<AffineMatrix> CodeOwq(const AffineInput& input, std::span<const float> moments,
                               double bits, ThreadPool& pool, Rounder& rounder);

}  // namespace cvxq

#endif  // CVXQ_QUANT_AFFINE_CODECS_H_
