#include "quant/trellis_search.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

struct Column {
  std::vector<float> original, lower;
  TrellisPrices prices;
  std::vector<TrellisRow> rows;
  std::vector<int32_t> row;
  ColumnTile tile;
};

// A column of normal weights with uneven steps; with feedback between rows or without.
// `price`: what a bit costs, at two bits for each magnitude and one more on the odd grid.
Column RandomColumn(int64_t n, float deviation, bool feedback, uint64_t key, float price = 0) {
  Draws draws(key);
  Column column;
  column.original = draws.Normals(n, deviation);
  column.row.resize(n);
  for (int i = 0; i < 2 * kPricedMagnitudes; ++i) {
    column.prices.price.push_back(
        price * (i < kPricedMagnitudes ? 2.0f * i : 2.0f * (i - kPricedMagnitudes) + 1));
  }
  for (int64_t r = 0; r < n; ++r) {
    column.rows.push_back({.step = draws.Uniform(0.8f, 1.2f),
                           .weight = draws.Uniform(0.8f, 1.2f),
                           .price = column.prices.Of(0)});
  }
  column.lower.assign(n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) column.lower[i * n + j] = draws.Uniform(-0.3f, 0.3f);
    column.lower[i * n + i] = 1;
  }
  column.tile = {.rows = n, .row = column.row.data(), .original = column.original.data()};
  if (feedback) {
    column.tile.lower = column.lower.data();
    column.tile.stride = n;
  }
  return column;
}

struct Path {
  std::vector<float> target, rounded;
  std::vector<int16_t> integers;
  double metric = 0;
  int state = 0;
};

Path Search(const Column& column, int state = 0) {
  const int64_t n = column.tile.rows;
  Path path{column.original, std::vector<float>(n), std::vector<int16_t>(n), 0, state};
  path.metric =
      TrellisSearch().Round(column.tile, column.rows.data(), path.state, path.target.data(),
                            path.rounded.data(), path.integers.data());
  return path;
}

TEST(TrellisSearch, PathsAreThoseOfTheTrellisAndTargetsFollowFeedback) {
  for (const bool feedback : {false, true}) {
    for (const int64_t n : {1, 2, 7, 64, 100}) {
      for (const float deviation : {0.3f, 3.0f, 100.0f}) {
        const Column column = RandomColumn(n, deviation, feedback, n);
        const int start = static_cast<int>(n) % kTrellisStates;
        const Path path = Search(column, start);
        int state = start;
        double metric = 0;
        std::vector<double> target(column.original.begin(), column.original.end());
        for (int64_t r = n - 1; r >= 0; --r) {
          const int code = kTrellis.Code(state, path.integers[r]);
          EXPECT_EQ(path.rounded[r], code * column.rows[r].step);
          EXPECT_NEAR(path.target[r], target[r], 1e-3 * (1 + deviation));
          metric += column.rows[r].weight *
                    std::pow((path.target[r] - path.rounded[r]) / column.rows[r].step, 2);
          if (feedback) {
            const double error = static_cast<double>(path.rounded[r]) - column.original[r];
            for (int64_t i = 0; i < r; ++i) target[i] -= column.lower[r * n + i] * error;
          }
          state = kTrellis.Next(state, path.integers[r]);
        }
        EXPECT_EQ(path.state, state);
        EXPECT_NEAR(path.metric, metric, 1e-3 * (1 + metric));
      }
    }
  }
}

// The least metric of any path, by trying all integers near each target.
double LeastMetric(const Column& column, int64_t row, int state) {
  if (row < 0) return 0;
  const float x = column.original[row] / column.rows[row].step;
  const int nearest = static_cast<int>(std::round(x / 2));
  double least = INFINITY;
  for (int k = nearest - 3; k <= nearest + 3; ++k) {
    const double error = x - kTrellis.Code(state, k);
    const double price =
        column.rows[row].price[kTrellis.grid[state] * kPricedMagnitudes + std::abs(k)];
    least = std::min(least, column.rows[row].weight * error * error + price +
                                LeastMetric(column, row - 1, kTrellis.Next(state, k)));
  }
  return least;
}

TEST(TrellisSearch, WithoutFeedbackItFindsTheBestPath) {
  for (const float price : {0.0f, 0.1f}) {
    for (uint64_t key = 0; key < 20; ++key) {
      const Column column = RandomColumn(6, 2.0f, false, key, price);
      const int state = static_cast<int>(key) % kTrellisStates;
      EXPECT_NEAR(Search(column, state).metric, LeastMetric(column, 5, state), 1e-4);
    }
  }
}

// On a fine grid two steps wide the trellis has far less than the error of rounding to it, 4/12.
TEST(TrellisSearch, ErrorIsWellBelowThatOfOneGrid) {
  for (const bool feedback : {false, true}) {
    const Column column = RandomColumn(1000, 20.0f, feedback, 3);
    EXPECT_LT(Search(column).metric / 1000, (feedback ? 0.87 : 0.78) * 4 / 12);
    EXPECT_GT(Search(column).metric / 1000, 0.5 * 4 / 12);
  }
}

TEST(TrellisSearch, WeightsBeyondAllCodesAreCut) {
  Column column = RandomColumn(3, 1.0f, false, 1);
  column.original[1] = 1e30f;
  const Path path = Search(column);
  EXPECT_TRUE(std::isfinite(path.rounded[1]));
  EXPECT_GT(path.integers[1], 30000);
}

}  // namespace
}  // namespace cvxq
