// What a bit is worth in each group: log2 of (curvature x variance), the quantity that the dual
// ascent allocates by.
#ifndef CVXQ_QUANT_IMPORTANCE_H_
#define CVXQ_QUANT_IMPORTANCE_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/curvature.h"
#include "quant/groups.h"

namespace cvxq {

// log2(G^2 S^2) of each group, -infinity where it is zero. Both [clusters, lines].
std::vector<float> GroupImportance(std::span<const float> squared_gradient,
                                   std::span<const float> variance);

// Importance under one-sided error feedback, partition kColumns (docs/math.md, "Allocation under
// feedback"). Feedback changes both factors of a group's importance:
//  - only the rounding error itself counts, weighted by the conditional variance D of its column in
//    place of the column's second moment;
//  - what is rounded is the weight plus the errors carried from columns worked earlier, whose
//  variance
//    is S_i^2 = s_i^2 + sum_{j>i} L[j,i]^2 f(b_j) S_j^2; and an error left at i feeds later columns
//    again: M_i = D_i + sum_{j<i} L[i,j]^2 f(b_j) M_j,
// with f(b) the distortion of a quantiser of b bits. f depends on the depths that the allocation
// gives: start from no depths (f = 0), allocate, and repeat.
struct FeedbackImportanceInput {
  const GroupLayout* layout = nullptr;
  const CurvatureFactor* factor = nullptr;
  std::span<const float> row_gradient;  // a_k of each cluster: mean of F over row and H, [clusters]
  std::span<const float> mean_square;   // s^2 of the groups' original weights, [clusters, lines]
  const std::vector<uint8_t>* depth = nullptr;     // of the last allocation, or nullptr
  std::array<double, kMaxDepth + 1> distortion{};  // f
};
std::vector<float> FeedbackImportance(const FeedbackImportanceInput& input);

}  // namespace cvxq

#endif  // CVXQ_QUANT_IMPORTANCE_H_
