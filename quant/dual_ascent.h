// The convex problem at the heart of the product: the bit depth of every group of weights of the
// model, by dual ascent on one Lagrange multiplier.
//
//   minimise   sum_g P_g G_g^2 S_g^2 d(B_g)
//   subject to sum_g P_g B_g + overhead * #{g: B_g > 0} <= budget,   B_g in 0..8
//
// P_g weights in group g, G_g^2 mean squared gradient, S_g^2 variance, d(b) the distortion of a
// quantiser of b bits on unit variance. For a given lambda the groups are independent: group g
// takes one more bit while that gains more than lambda a bit,
//   log2(G_g^2 S_g^2) + gain(b) >= log2 lambda,   gain(b) = log2((d(b) - d(b+1)) / cost(b)).
// With d(b) = 2^(-2b) and rounding this is B = clamp(round(1/2 log2(G^2 S^2) - 1/2 log2 lambda), 0,
// 8) (CVXQ, arXiv 2409.02026, eq. 7; Radio, arXiv 2505.03031). The multiplier ascends by
//   log2 lambda <- log2 lambda + alpha (rate(lambda) - target),
// where rate(lambda) is read off a histogram of integer counts: histograms of many workers add up
// to the same one, in any order.
#ifndef CVXQ_QUANT_DUAL_ASCENT_H_
#define CVXQ_QUANT_DUAL_ASCENT_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/packed_matrix.h"
#include "quant/groups.h"

namespace cvxq {

// When a group takes one more bit. Gains fall with the depth (the problem is convex).
struct DepthModel {
  std::array<double, kMaxDepth> gain{};  // gain[b]: from depth b to b + 1, in octaves of lambda
  double overhead_bits = 0;              // paid once by a group of depth above 0 (its scale)

  // The rule of the papers: rounding of 1/2 log2(G^2 S^2) - 1/2 log2 lambda.
  static DepthModel Paper(double overhead_bits);
  // From the distortion d(0..8) of an actual quantiser; `group_weights` is the usual P_g, by which
  // the overhead is spread over the first bit.
  static DepthModel FromDistortion(const std::array<double, kMaxDepth + 1>& distortion,
                                   double overhead_bits, double group_weights);

  int Depth(double log2_importance, double log2_lambda) const;
};

// Counts of weights and groups by log2(G^2 S^2), in bins of 1/64 octave. Mergeable and exact.
class ImportanceHistogram {
 public:
  static constexpr double kBinsPerOctave = 64;

  // Groups whose importance is zero, or not a number, take no bits and are counted apart.
  void Add(float log2_importance, int64_t weights);
  void Merge(const ImportanceHistogram& other);

  int64_t weights() const { return weights_; }
  // Bits that all groups take at this multiplier, overhead included.
  double Bits(const DepthModel& model, double log2_lambda) const;
  // Weighted mean of log2 importance: where the ascent starts.
  double Mean() const;

 private:
  struct Count {
    int64_t weights = 0, groups = 0;
  };
  // Importances beyond 2^-400 .. 2^400 are counted in the outermost bins.
  static constexpr int kBins = 800 * 64;
  static double Centre(int bin) { return (bin + 0.5) / kBinsPerOctave - 400; }

  std::vector<Count> bins_ = std::vector<Count>(kBins);
  int64_t weights_ = 0;
};

// The multiplier at which the histogram's bits meet the budget, as nearly as bins allow.
struct DualSolution {
  double log2_lambda = 0;
  int steps = 0;
};
DualSolution AscendDual(const ImportanceHistogram& histogram, const DepthModel& model,
                        int64_t budget_bits, double alpha = 1.9);

// One linear's part of the problem: log2(G_g^2 S_g^2) of its groups, [clusters, lines].
struct AllocationLayer {
  const GroupLayout* layout = nullptr;
  std::span<const float> log2_importance;
};

struct Allocation {
  double log2_lambda = 0;
  int steps = 0;                            // of the ascent
  int64_t bits = 0;                         // taken, at most the budget
  std::vector<std::vector<uint8_t>> depth;  // for each layer [clusters, lines]
};

// Ascends, then settles the groups nearest to the multiplier one by one, in the order of their
// gain (ties by layer, then group), so that the budget is met to within one group and not exceeded.
Allocation AllocateDepths(std::span<const AllocationLayer> layers, const DepthModel& model,
                          int64_t budget_bits);

}  // namespace cvxq

#endif  // CVXQ_QUANT_DUAL_ASCENT_H_
