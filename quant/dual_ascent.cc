#include "quant/dual_ascent.h"

#include <algorithm>
#include <cmath>

namespace cvxq {
namespace {

constexpr int kMaxSteps = 400;

// One step a group may take: from depth b to b + 1 where lambda passes `threshold`.
struct Step {
  double threshold;
  int32_t layer;
  int64_t group;
  int b;
};

int64_t StepBits(const GroupLayout& layout, int64_t group, int b, const DepthModel& model) {
  const int64_t weights = layout.members_in(group / layout.line_count());
  return weights + (b == 0 ? static_cast<int64_t>(std::ceil(model.overhead_bits)) : 0);
}

// All steps with low <= threshold < high, those of largest gain first.
std::vector<Step> StepsBetween(std::span<const AllocationLayer> layers, const DepthModel& model,
                               double low, double high) {
  std::vector<Step> steps;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const auto& importance = layers[layer].log2_importance;
    for (size_t group = 0; group < importance.size(); ++group) {
      if (!std::isfinite(importance[group])) continue;
      for (int b = 0; b < kMaxDepth; ++b) {
        const double threshold = importance[group] + model.gain[b];
        if (threshold >= low && threshold < high) {
          steps.push_back({threshold, static_cast<int32_t>(layer), static_cast<int64_t>(group), b});
        }
      }
    }
  }
  std::sort(steps.begin(), steps.end(), [](const Step& x, const Step& y) {
    if (x.threshold != y.threshold) return x.threshold > y.threshold;
    if (x.layer != y.layer) return x.layer < y.layer;
    if (x.group != y.group) return x.group < y.group;
    return x.b < y.b;
  });
  return steps;
}

}  // namespace

DepthModel DepthModel::Paper(double overhead_bits) {
  DepthModel model;
  for (int b = 0; b < kMaxDepth; ++b) model.gain[b] = -(2.0 * b + 1.0);
  model.overhead_bits = overhead_bits;
  return model;
}

DepthModel DepthModel::FromDistortion(const std::array<double, kMaxDepth + 1>& distortion,
                                      double overhead_bits, double group_weights) {
  DepthModel model;
  model.overhead_bits = overhead_bits;
  for (int b = 0; b < kMaxDepth; ++b) {
    const double cost = b == 0 ? 1.0 + overhead_bits / group_weights : 1.0;
    model.gain[b] = std::log2((distortion[b] - distortion[b + 1]) / cost);
    if (b > 0) model.gain[b] = std::min(model.gain[b], model.gain[b - 1]);
  }
  return model;
}

int DepthModel::Depth(double log2_importance, double log2_lambda) const {
  if (!std::isfinite(log2_importance)) return 0;
  int depth = 0;
  while (depth < kMaxDepth && log2_importance + gain[depth] >= log2_lambda) ++depth;
  return depth;
}

void ImportanceHistogram::Add(float log2_importance, int64_t weights) {
  weights_ += weights;
  if (!std::isfinite(log2_importance)) return;
  const double bin = std::floor((log2_importance + 400.0) * kBinsPerOctave);
  Count& count = bins_[static_cast<int>(std::clamp(bin, 0.0, kBins - 1.0))];
  count.weights += weights;
  count.groups += 1;
}

void ImportanceHistogram::Merge(const ImportanceHistogram& other) {
  weights_ += other.weights_;
  for (int bin = 0; bin < kBins; ++bin) {
    bins_[bin].weights += other.bins_[bin].weights;
    bins_[bin].groups += other.bins_[bin].groups;
  }
}

double ImportanceHistogram::Bits(const DepthModel& model, double log2_lambda) const {
  double bits = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    if (bins_[bin].groups == 0) continue;
    const int depth = model.Depth(Centre(bin), log2_lambda);
    bits += static_cast<double>(bins_[bin].weights) * depth;
    if (depth > 0) bits += static_cast<double>(bins_[bin].groups) * std::ceil(model.overhead_bits);
  }
  return bits;
}

double ImportanceHistogram::Mean() const {
  double sum = 0, weights = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    sum += Centre(bin) * bins_[bin].weights;
    weights += bins_[bin].weights;
  }
  return weights > 0 ? sum / weights : 0;
}

DualSolution AscendDual(const ImportanceHistogram& histogram, const DepthModel& model,
                        int64_t budget_bits, double alpha) {
  const double weights = static_cast<double>(std::max<int64_t>(1, histogram.weights()));
  const double target = budget_bits / weights;
  DualSolution solution;
  solution.log2_lambda = histogram.Mean() - 2 * target;
  // Where many groups are clamped the rate hardly falls with lambda and the paper's fixed step
  // would crawl; where a step passes the solution it is halved, so the ascent always closes in.
  double step = alpha, last_excess = 0;
  for (; solution.steps < kMaxSteps; ++solution.steps) {
    const double excess = histogram.Bits(model, solution.log2_lambda) / weights - target;
    if (std::abs(excess) < 1e-7 || step < 1e-6) break;
    if (last_excess * excess < 0) step *= 0.5;
    solution.log2_lambda += step * excess;
    last_excess = excess;
  }
  return solution;
}

Allocation AllocateDepths(std::span<const AllocationLayer> layers, const DepthModel& model,
                          int64_t budget_bits) {
  ImportanceHistogram histogram;
  for (const AllocationLayer& layer : layers) {
    for (size_t group = 0; group < layer.log2_importance.size(); ++group) {
      histogram.Add(layer.log2_importance[group],
                    layer.layout->members_in(group / layer.layout->line_count()));
    }
  }
  const DualSolution solution = AscendDual(histogram, model, budget_bits);

  Allocation result;
  result.log2_lambda = solution.log2_lambda;
  result.steps = solution.steps;
  for (const AllocationLayer& layer : layers) {
    std::vector<uint8_t>& depth = result.depth.emplace_back(layer.log2_importance.size());
    for (size_t group = 0; group < depth.size(); ++group) {
      depth[group] = model.Depth(layer.log2_importance[group], solution.log2_lambda);
      for (int b = 0; b < depth[group]; ++b) {
        result.bits += StepBits(*layer.layout, group, b, model);
      }
    }
  }

  // Settle: take back the steps of least gain while over the budget, then take those of most gain
  // that still fit. The window around lambda widens until it holds enough steps.
  constexpr double kEverything = 1e6;
  double taken_back = 0;  // steps were taken back up to so far above lambda
  for (double window = 1.0 / 16; result.bits > budget_bits; window *= 8) {
    taken_back = window;
    const std::vector<Step> steps =
        StepsBetween(layers, model, solution.log2_lambda, solution.log2_lambda + window);
    for (size_t i = steps.size(); i-- > 0 && result.bits > budget_bits;) {
      uint8_t& depth = result.depth[steps[i].layer][steps[i].group];
      if (depth != steps[i].b + 1) continue;
      depth = static_cast<uint8_t>(steps[i].b);
      result.bits -= StepBits(*layers[steps[i].layer].layout, steps[i].group, steps[i].b, model);
    }
    if (window > kEverything) break;
  }
  for (double window = 1.0 / 16;; window *= 8) {
    bool full = false;
    for (const Step& step : StepsBetween(layers, model, solution.log2_lambda - window,
                                         solution.log2_lambda + taken_back)) {
      uint8_t& depth = result.depth[step.layer][step.group];
      if (depth != step.b) continue;
      const int64_t bits = StepBits(*layers[step.layer].layout, step.group, step.b, model);
      if (result.bits + bits > budget_bits) {
        full = true;
        continue;  // a smaller group may still fit
      }
      depth = static_cast<uint8_t>(step.b + 1);
      result.bits += bits;
    }
    if (full || window > kEverything) break;
  }
  return result;
}

}  // namespace cvxq
