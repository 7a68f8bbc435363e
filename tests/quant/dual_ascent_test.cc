#include "quant/dual_ascent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "quant/tables.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
using Distortion = std::array<double, kMaxDepth + 1>;

Distortion PowersOfFour() {
  Distortion d;
  for (int b = 0; b <= kMaxDepth; ++b) d[b] = std::pow(4.0, -b);
  return d;
}

// Layers with their importances, as AllocateDepths takes them.
class Problem {
 public:
  // A layer of clusters of `size` rows, the last with what is left of `rows`.
  void AddLayer(int64_t rows, int64_t columns, int64_t size, std::vector<float> importance) {
    layouts_.push_back(
        MakeGroupLayout(rows, columns, Partition::kColumns, size, std::vector<float>(rows, 1.0f)));
    ASSERT_EQ(static_cast<int64_t>(importance.size()), layouts_.back().group_count());
    importance_.push_back(std::move(importance));
  }
  Allocation Allocate(const DepthModel& model, int64_t budget) const {
    std::vector<AllocationLayer> layers;
    for (size_t i = 0; i < layouts_.size(); ++i) layers.push_back({&layouts_[i], importance_[i]});
    return AllocateDepths(layers, model, budget);
  }
  // Of every group, one layer after another.
  std::vector<int64_t> Weights() const {
    std::vector<int64_t> weights;
    for (const GroupLayout& layout : layouts_) {
      for (int64_t g = 0; g < layout.group_count(); ++g) {
        weights.push_back(layout.members_in(g / layout.line_count()));
      }
    }
    return weights;
  }
  std::vector<float> Importance() const {
    std::vector<float> all;
    for (const auto& importance : importance_) {
      all.insert(all.end(), importance.begin(), importance.end());
    }
    return all;
  }

 private:
  std::vector<GroupLayout> layouts_;
  std::vector<std::vector<float>> importance_;
};

std::vector<int> Depths(const Allocation& allocation) {
  std::vector<int> depths;
  for (const auto& layer : allocation.depth) {
    depths.insert(depths.end(), layer.begin(), layer.end());
  }
  return depths;
}

int64_t Bits(const Problem& problem, const std::vector<int>& depths, int64_t overhead) {
  const std::vector<int64_t> weights = problem.Weights();
  int64_t bits = 0;
  for (size_t g = 0; g < depths.size(); ++g) {
    bits += weights[g] * depths[g] + (depths[g] > 0 ? overhead : 0);
  }
  return bits;
}

double TotalDistortion(const Problem& problem, const std::vector<int>& depths,
                       const Distortion& d) {
  const std::vector<int64_t> weights = problem.Weights();
  const std::vector<float> importance = problem.Importance();
  double sum = 0;
  for (size_t g = 0; g < depths.size(); ++g) {
    sum += weights[g] * std::exp2(static_cast<double>(importance[g])) * d[depths[g]];
  }
  return sum;
}

// least[bits]: the least distortion that so many bits allow, over all combinations of depths.
std::vector<double> LeastDistortion(const Problem& problem, const Distortion& d, int64_t bits) {
  const std::vector<int64_t> weights = problem.Weights();
  const std::vector<float> importance = problem.Importance();
  std::vector<double> least(bits + 1, 0.0);
  for (size_t g = 0; g < weights.size(); ++g) {
    const double value = weights[g] * std::exp2(static_cast<double>(importance[g]));
    std::vector<double> next(bits + 1, std::numeric_limits<double>::infinity());
    for (int64_t used = 0; used <= bits; ++used) {
      for (int b = 0; b <= kMaxDepth && used + b * weights[g] <= bits; ++b) {
        double& at = next[used + b * weights[g]];
        at = std::min(at, least[used] + value * d[b]);
      }
    }
    least = std::move(next);
  }
  for (int64_t b = 1; b <= bits; ++b) least[b] = std::min(least[b], least[b - 1]);
  return least;
}

std::vector<float> Spread(Draws& draws, int64_t n, float octaves) {
  std::vector<float> values(n);
  for (float& value : values) value = draws.Uniform(-octaves, octaves) - 20;
  return values;
}

TEST(DepthModel, PaperRuleIsClampedRounding) {
  const DepthModel model = DepthModel::Paper(0);
  Draws draws(1);
  for (int i = 0; i < 5000; ++i) {
    const float importance = draws.Uniform(-60, 20);
    const double lambda = draws.Uniform(-40, 0);
    const double plain = std::clamp(std::round(0.5 * importance - 0.5 * lambda), 0.0, 8.0);
    EXPECT_EQ(model.Depth(importance, lambda), static_cast<int>(plain));
  }
  EXPECT_EQ(model.Depth(kNothing, -1000), 0);
  EXPECT_EQ(model.Depth(std::numeric_limits<double>::quiet_NaN(), -1000), 0);
}

TEST(DepthModel, ATakenBitGainsMoreThanLambda) {
  const LevelTables tables = LloydMaxTables(2);
  const DepthModel model = DepthModel::FromDistortion(tables.distortion, 6, 64);
  for (double lambda = -30; lambda < 5; lambda += 0.37) {
    const int depth = model.Depth(-3, lambda);
    const auto gain = [&](int b) {  // a bit and weight, from b to b + 1
      return std::exp2(-3) * (tables.distortion[b] - tables.distortion[b + 1]) /
             (b == 0 ? 1 + 6.0 / 64 : 1);
    };
    if (depth > 0) {
      EXPECT_GE(gain(depth - 1), std::exp2(lambda) * (1 - 1e-12));
    }
    if (depth < kMaxDepth) {
      EXPECT_LT(gain(depth), std::exp2(lambda) * (1 + 1e-12));
    }
  }
  for (int b = 1; b < kMaxDepth; ++b) EXPECT_LE(model.gain[b], model.gain[b - 1]);
}

// A quantiser whose second bit gains more than its first (overhead makes this so).
TEST(DepthModel, GainsNeverRise) {
  const DepthModel model = DepthModel::FromDistortion(PowersOfFour(), 1000, 16);
  for (int b = 1; b < kMaxDepth; ++b) EXPECT_LE(model.gain[b], model.gain[b - 1]);
}

TEST(AllocateDepths, IsOptimalForGroupsOfOneSize) {
  const Distortion d = LloydMaxTables(2).distortion;
  const DepthModel model = DepthModel::FromDistortion(d, 0, 4);
  Draws draws(2);
  for (int trial = 0; trial < 30; ++trial) {
    Problem problem;
    problem.AddLayer(8, 5, 4, Spread(draws, 10, 6));
    problem.AddLayer(4, 6, 4, Spread(draws, 6, 3));
    const std::vector<double> least = LeastDistortion(problem, d, 16 * 4 * 8);
    for (const int64_t budget : {0, 3, 4, 37, 64, 150, 301, 511, 512}) {
      const Allocation allocation = problem.Allocate(model, budget);
      const std::vector<int> depths = Depths(allocation);
      EXPECT_EQ(allocation.bits, Bits(problem, depths, 0));
      EXPECT_EQ(allocation.bits, budget / 4 * 4);  // all that whole groups can take
      EXPECT_NEAR(TotalDistortion(problem, depths, d), least[budget], 1e-9 * least[budget]);
    }
  }
}

// Groups of several sizes make a knapsack; the dual comes within one group of its optimum.
TEST(AllocateDepths, IsWithinOneGroupOfTheOptimum) {
  const Distortion d = PowersOfFour();
  const DepthModel model = DepthModel::FromDistortion(d, 0, 4);
  Draws draws(3);
  for (int trial = 0; trial < 30; ++trial) {
    Problem problem;
    problem.AddLayer(7, 4, 4, Spread(draws, 8, 5));
    problem.AddLayer(5, 3, 5, Spread(draws, 3, 5));
    problem.AddLayer(3, 3, 2, Spread(draws, 6, 5));
    const int64_t weights = 28 + 15 + 9;
    const std::vector<double> least = LeastDistortion(problem, d, weights * 8);
    for (int64_t budget = 0; budget <= weights * 8; budget += 13) {
      const Allocation allocation = problem.Allocate(model, budget);
      EXPECT_LE(allocation.bits, budget);
      EXPECT_GT(allocation.bits, budget - 5);
      const double reached = TotalDistortion(problem, Depths(allocation), d);
      EXPECT_GE(reached, least[budget] * (1 - 1e-9));
      EXPECT_LE(reached, least[std::max<int64_t>(0, budget - 5)] * (1 + 1e-9));
    }
  }
}

TEST(AllocateDepths, MeetsTheBudgetWithinOneGroup) {
  Draws draws(4);
  for (const double overhead : {0.0, 2.5, 9.0}) {
    for (int trial = 0; trial < 10; ++trial) {
      Problem problem;
      problem.AddLayer(100, 30, 32, Spread(draws, 4 * 30, draws.Uniform(0, 15)));
      problem.AddLayer(33, 17, 16, Spread(draws, 3 * 17, draws.Uniform(0, 15)));
      const DepthModel model = trial % 2 == 0
                                   ? DepthModel::Paper(overhead)
                                   : DepthModel::FromDistortion(PowersOfFour(), overhead, 32);
      const int64_t weights = 100 * 30 + 33 * 17;
      for (const double rate : {0.01, 0.1, 0.7, 1.5, 2.1, 3.0, 5.9, 7.9}) {
        const int64_t budget = static_cast<int64_t>(rate * weights);
        const Allocation allocation = problem.Allocate(model, budget);
        EXPECT_EQ(allocation.bits,
                  Bits(problem, Depths(allocation), static_cast<int64_t>(std::ceil(overhead))));
        EXPECT_LE(allocation.bits, budget);
        EXPECT_GT(allocation.bits, budget - 32 - std::ceil(overhead)) << rate;
      }
    }
  }
}

TEST(AllocateDepths, EqualGroupsDifferByOneBit) {
  Problem problem;
  problem.AddLayer(64, 50, 16, std::vector<float>(200, -13.0f));
  const Allocation allocation = problem.Allocate(DepthModel::Paper(0), 64 * 50 * 5 / 2);
  EXPECT_EQ(allocation.bits, 64 * 50 * 5 / 2);
  const std::vector<int> depths = Depths(allocation);
  EXPECT_EQ(std::count(depths.begin(), depths.end(), 2), 100);
  EXPECT_EQ(std::count(depths.begin(), depths.end(), 3), 100);
  EXPECT_TRUE(std::is_sorted(depths.rbegin(), depths.rend()));  // ties go to the first groups
}

TEST(AllocateDepths, MoreBudgetTakesNoBitAway) {
  Draws draws(5);
  Problem problem;
  problem.AddLayer(32, 40, 8, Spread(draws, 160, 8));
  const DepthModel model = DepthModel::FromDistortion(PowersOfFour(), 0, 8);
  std::vector<int> before(160, 0);
  for (int64_t budget = 0; budget <= 32 * 40 * 8; budget += 111) {
    const std::vector<int> depths = Depths(problem.Allocate(model, budget));
    for (size_t g = 0; g < depths.size(); ++g) EXPECT_GE(depths[g], before[g]);
    before = depths;
  }
}

TEST(AllocateDepths, BudgetOfNothingAndOfEverything) {
  Draws draws(6);
  for (const double overhead : {0.0, 5.0}) {
    Problem problem;
    problem.AddLayer(10, 10, 4, Spread(draws, 30, 150));  // 300 octaves apart
    const DepthModel model = DepthModel::Paper(overhead);
    const Allocation nothing = problem.Allocate(model, 0);
    EXPECT_EQ(nothing.bits, 0);
    for (const int depth : Depths(nothing)) EXPECT_EQ(depth, 0);
    for (const int64_t budget : {int64_t{950}, int64_t{1} << 50}) {
      const Allocation all = problem.Allocate(model, budget);
      EXPECT_EQ(all.bits, 800 + 30 * overhead);
      for (const int depth : Depths(all)) EXPECT_EQ(depth, kMaxDepth);
    }
  }
}

TEST(AllocateDepths, GroupsWithoutImportanceTakeNoBits) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Problem nothing;
  nothing.AddLayer(8, 4, 2, std::vector<float>(16, kNothing));
  EXPECT_EQ(nothing.Allocate(DepthModel::Paper(0), 100).bits, 0);

  Problem some;
  some.AddLayer(2, 5, 2, {-4, infinity, nan, kNothing, -6});
  const Allocation allocation = some.Allocate(DepthModel::Paper(0), 1000);
  EXPECT_EQ(Depths(allocation), (std::vector<int>{8, 0, 0, 0, 8}));
  EXPECT_EQ(allocation.bits, 32);
}

TEST(AllocateDepths, ImportancesBeyondTheHistogramAreStillInOrder) {
  Problem problem;
  problem.AddLayer(1, 4, 1, {-3000, 900, 450, -401});
  EXPECT_EQ(Depths(problem.Allocate(DepthModel::Paper(0), 12)), (std::vector<int>{0, 8, 4, 0}));
  EXPECT_EQ(Depths(problem.Allocate(DepthModel::Paper(0), 25)), (std::vector<int>{1, 8, 8, 8}));
}

TEST(AllocateDepths, NoLayers) {
  const Allocation allocation = AllocateDepths({}, DepthModel::Paper(0), 100);
  EXPECT_EQ(allocation.bits, 0);
  EXPECT_TRUE(allocation.depth.empty());
}

TEST(ImportanceHistogram, BitsAreThoseOfTheGroupsAtBinCentres) {
  Draws draws(7);
  ImportanceHistogram histogram;
  const DepthModel model = DepthModel::FromDistortion(PowersOfFour(), 3.2, 16);
  std::vector<float> importance;
  for (int i = 0; i < 400; ++i) {  // the centre of a bin of 1/64 octave, so that counts are exact
    importance.push_back((std::floor(draws.Uniform(-30, 5) * 64) + 0.5f) / 64);
    histogram.Add(importance.back(), 1 + i % 20);
  }
  histogram.Add(kNothing, 1000);
  int64_t weights = 1000;
  for (int i = 0; i < 400; ++i) weights += 1 + i % 20;
  EXPECT_EQ(histogram.weights(), weights);
  for (double lambda = -50; lambda < 10; lambda += 0.77) {
    double bits = 0;
    for (int i = 0; i < 400; ++i) {
      const int depth = model.Depth(importance[i], lambda);
      bits += (1 + i % 20) * depth + (depth > 0 ? 4 : 0);
    }
    EXPECT_EQ(histogram.Bits(model, lambda), bits);
  }
}

TEST(ImportanceHistogram, MergesInAnyOrder) {
  constexpr int kParts = 5;
  Draws draws(8);
  std::vector<ImportanceHistogram> parts(kParts);
  ImportanceHistogram whole;
  for (int i = 0; i < 3000; ++i) {
    const float importance = i % 100 == 0 ? kNothing : draws.Uniform(-40, 10);
    const int64_t weights = 1 + static_cast<int64_t>(draws.Below(300));
    whole.Add(importance, weights);
    parts[draws.Below(kParts)].Add(importance, weights);
  }
  const DepthModel model = DepthModel::Paper(4);
  const int64_t budget = whole.weights() * 2;
  const DualSolution expected = AscendDual(whole, model, budget);
  for (int first = 0; first < kParts; ++first) {
    ImportanceHistogram merged;
    for (int i = 0; i < kParts; ++i) merged.Merge(parts[(first + i * 2) % kParts]);
    EXPECT_EQ(merged.weights(), whole.weights());
    EXPECT_EQ(merged.Mean(), whole.Mean());
    const DualSolution solution = AscendDual(merged, model, budget);
    EXPECT_EQ(solution.log2_lambda, expected.log2_lambda);
    EXPECT_EQ(solution.steps, expected.steps);
  }
}

TEST(AscendDual, MeetsTheRate) {
  Draws draws(9);
  for (const float octaves : {1.0f, 5.0f, 20.0f}) {
    ImportanceHistogram histogram;
    for (int i = 0; i < 20000; ++i) histogram.Add(draws.Normal() * octaves - 25, 64);
    const DepthModel model = DepthModel::FromDistortion(PowersOfFour(), 8, 64);
    for (const double rate : {0.3, 1.0, 2.5, 4.0, 7.0}) {
      const int64_t budget = static_cast<int64_t>(rate * histogram.weights());
      const DualSolution solution = AscendDual(histogram, model, budget);
      EXPECT_LE(solution.steps, 400);
      // As nearly as bins allow: the budget lies between the bits a bin and a half to either side.
      const double bin = 1.5 / ImportanceHistogram::kBinsPerOctave;
      EXPECT_GE(histogram.Bits(model, solution.log2_lambda - bin), budget)
          << octaves << " " << rate;
      EXPECT_LE(histogram.Bits(model, solution.log2_lambda + bin), budget)
          << octaves << " " << rate;
    }
  }
}

}  // namespace
}  // namespace cvxq
