// Classes of rows and columns (scaled_codes.h).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <span>
#include <vector>

#include "quant/entropy_tables.h"
#include "quant/scaled_codes.h"
#include "quant/trellis.h"

namespace cvxq {
namespace {

// Spreads in the fit: the Laplacian mean magnitude b = 2^(level / 16 - 4), so that a class is four
// levels. A level of a row plus one of a column, less a common zero, is that of an integer.
constexpr int kLevelsOfClass = 4, kLevels = kLevelsOfClass * kSymbolClasses;

// The mean magnitude of a Laplacian number, rounded to the nearest integer, at each level.
const std::array<double, kLevels>& Means() {
  static const std::array<double, kLevels> means = [] {
    std::array<double, kLevels> table{};
    for (int level = 0; level < kLevels; ++level) {
      const double b = std::exp2(level / 16.0 - 4);
      table[level] = 0.5 / std::sinh(0.5 / b);
    }
    return table;
  }();
  return means;
}

// The level of each line at which the magnitudes expected of it, given the levels across, sum to
// what they are; between -kLevels (no integer but 0) and kLevels.
std::vector<int> Fit(std::span<const int64_t> sums, std::span<const int> across) {
  std::array<int64_t, 2 * kLevels + 1> lines{};  // across, by level
  for (const int level : across) ++lines[level + kLevels];
  std::array<double, 2 * kLevels + 1> expected{};  // at each level of the line
  for (int level = -kLevels; level <= kLevels; ++level) {
    for (int other = -kLevels; other <= kLevels; ++other) {
      if (lines[other + kLevels] == 0) continue;
      expected[level + kLevels] += static_cast<double>(lines[other + kLevels]) *
                                   Means()[std::clamp(level + other, 0, kLevels - 1)];
    }
  }
  std::vector<int> fitted;
  for (const int64_t sum : sums) {
    const auto above = std::lower_bound(expected.begin(), expected.end(), static_cast<double>(sum));
    fitted.push_back(std::min(static_cast<int>(above - expected.begin()) - kLevels, kLevels));
  }
  return fitted;
}

int Median(std::vector<int> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

int8_t ClassOfLevel(int level) {
  const int rounded = (level + kLevels + kLevelsOfClass / 2) / kLevelsOfClass - kSymbolClasses;
  return static_cast<int8_t>(std::min(rounded, kSymbolClasses - 1));
}

// Candidates: classes of a line from kReach below to kReach above.
constexpr int kReach = 3, kCandidates = 2 * kReach + 1;
// A class index, before it is clamped, from all sums of two classes and a reach.
constexpr int kFromClass = -256 - kReach, kClassSpan = 512 + 2 * kReach + 1;
constexpr int64_t kUnitsOfBit = 256;

// Cost() in integers, so that sums are the same in any order, classes side by side.
class Costs {
 public:
  explicit Costs(const EntropyTables& tables)
      : tables_(tables), units_(int64_t{kTrellisGrids} * (kMaxCode + 1) * kClassSpan) {
    for (int g = 0; g < kTrellisGrids; ++g) {
      for (int m = 0; m <= kMaxCode; ++m) {
        for (int i = 0; i < kClassSpan; ++i) units_[Row(g, m) + i] = Unit(kFromClass + i, g, m);
      }
    }
  }
  // Adds the costs of k at classes sum - kReach .. sum + kReach.
  void Add(int grid, int k, int sum, int64_t* to) const {
    const int magnitude = std::abs(k);
    if (magnitude > kMaxCode) {
      for (int i = 0; i < kCandidates; ++i) to[i] += Unit(sum - kReach + i, grid, magnitude);
      return;
    }
    const int32_t* from = &units_[Row(grid, magnitude) + sum - kReach - kFromClass];
    for (int i = 0; i < kCandidates; ++i) to[i] += from[i];
  }

 private:
  static int64_t Row(int grid, int magnitude) {
    return (int64_t{grid} * (kMaxCode + 1) + magnitude) * kClassSpan;
  }
  int32_t Unit(int sum, int grid, int magnitude) const {
    return static_cast<int32_t>(
        std::lround(tables_.Cost(SymbolClass(sum, 0), grid, magnitude) * kUnitsOfBit));
  }
  const EntropyTables& tables_;
  std::vector<int32_t> units_;
};

// Moves each class to its cheapest candidate. A class costs what its own frequency says.
bool Move(std::span<const int64_t> costs, std::vector<int8_t>& classes) {
  std::array<int64_t, 256> counts{};
  for (const int8_t c : classes) ++counts[c + 128];
  std::array<int64_t, 256> told{};
  for (int c = 0; c < 256; ++c) {
    const double share =
        (static_cast<double>(counts[c]) + 0.25) / static_cast<double>(classes.size());
    told[c] = std::lround(-std::log2(share) * kUnitsOfBit);
  }
  bool moved = false;
  for (size_t i = 0; i < classes.size(); ++i) {
    const auto cost = [&](int candidate) {
      return costs[i * kCandidates + candidate] + told[classes[i] + candidate - kReach + 128];
    };
    int best = kReach;
    for (int candidate = 0; candidate < kCandidates; ++candidate) {
      const int there = classes[i] + candidate - kReach;
      if (there >= -kSymbolClasses && there < kSymbolClasses && cost(candidate) < cost(best)) {
        best = candidate;
      }
    }
    moved |= best != kReach;
    classes[i] = static_cast<int8_t>(classes[i] + best - kReach);
  }
  return moved;
}

}  // namespace

void AssignClasses(ScaledCodes& codes) {
  std::vector<int64_t> row_sum(codes.rows), column_sum(codes.columns);
  for (int64_t r = 0; r < codes.rows; ++r) {
    for (int64_t c = 0; c < codes.columns; ++c) {
      const int magnitude = std::abs(codes.integers[r * codes.columns + c]);
      row_sum[r] += magnitude;
      column_sum[c] += magnitude;
    }
  }
  std::vector<int> rows(codes.rows), columns(codes.columns);
  for (int round = 0; round < 4; ++round) {
    rows = Fit(row_sum, columns);
    // Columns about zero, so that both stay in range.
    columns = Fit(column_sum, rows);
    const int middle = Median(columns);
    for (int& level : columns) level = std::clamp(level - middle, -kLevels, kLevels);
  }
  rows = Fit(row_sum, columns);
  codes.row_class.clear();
  for (const int level : rows) codes.row_class.push_back(ClassOfLevel(level));
  codes.column_class.clear();
  for (const int level : columns) codes.column_class.push_back(ClassOfLevel(level));
}

bool RefineClasses(ScaledCodes& codes, const EntropyTables& tables) {
  const Costs costs(tables);
  bool moved = false;
  for (const bool by_rows : {true, false}) {
    std::vector<int64_t> sums((by_rows ? codes.rows : codes.columns) * kCandidates);
    std::vector<uint8_t> state(codes.columns);
    for (int64_t r = 0; r < codes.rows; ++r) {
      if (codes.TrellisStarts(r)) std::ranges::fill(state, uint8_t{0});
      for (int64_t c = 0; c < codes.columns; ++c) {
        const int k = codes.integers[r * codes.columns + c];
        costs.Add(kTrellis.grid[state[c]], k, codes.row_class[r] + codes.column_class[c],
                  &sums[(by_rows ? r : c) * kCandidates]);
        state[c] = static_cast<uint8_t>(kTrellis.Next(state[c], k));
      }
    }
    moved |= Move(sums, by_rows ? codes.row_class : codes.column_class);
  }
  return moved;
}

}  // namespace cvxq
