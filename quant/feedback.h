// Error feedback: rounding a matrix column by column so that later columns make up for the errors
// of earlier ones, for any rounding rule.
//
// One-sided (GPTQ, arXiv 2210.17323; the form with L is that of LDLQ, arXiv 2307.13304). The
// distortion of an error E of rows of W is tr(E H E^T) = sum_c D_c |(E L)_c|^2 with H = L D L^T.
// Work from the last place back: round
//   t_c = w_c - sum_{c' > c} E_c' L[c', c],   E = w_hat - w,
// then (E L)_c is the rounding error of t_c alone. The two-sided kind adds the same sum over rows
// with a factor of the output curvature; it takes the same RoundingRule.
#ifndef CVXQ_QUANT_FEEDBACK_H_
#define CVXQ_QUANT_FEEDBACK_H_

#include <cstdint>
#include <functional>

#include "quant/curvature.h"

namespace cvxq {

enum class Feedback : uint8_t { kNone, kOne };

// Rounds one column of a slab of rows: target[rows] -> rounded[rows]. `column` is W's own index.
// Called once for each column.
using RoundColumn = std::function<void(int64_t column, const float* target, float* rounded)>;

// w: the slab [n columns][rows] (column-major: the rows of a column are contiguous), replaced by
// the rounded values. `factor` may be nullptr: no feedback, columns from the first to the last.
// Single-threaded; slabs are independent.
void RoundWithFeedback(const CurvatureFactor* factor, int64_t rows, int64_t columns, float* w,
                       const RoundColumn& round);

}  // namespace cvxq

#endif  // CVXQ_QUANT_FEEDBACK_H_
