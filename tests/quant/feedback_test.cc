#include "quant/feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

constexpr float kStep = 0.25f;

float Nearest(float value) { return kStep * std::round(value / kStep); }

CurvatureFactor Factor(const std::vector<float>& h, int64_t n) {
  StatusOr<CurvatureFactor> factor = FactorCurvature(h, n, 0.01);
  EXPECT_TRUE(factor.ok()) << factor.status();
  return *std::move(factor);
}

RowBlock Block(int64_t first, int64_t rows, bool lower) {
  RowBlock block;
  block.rows.resize(rows);
  std::iota(block.rows.rbegin(), block.rows.rend(), static_cast<int32_t>(first));  // any order
  if (!lower) return block;
  std::vector<int32_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  block.lower = FactorInOrder(CorrelatedMoments(rows, 3 * rows, rows), order, 0.2)->lower;
  return block;
}

// Runs nearest rounding; gives the rounded matrix [M, N] and every target.
struct Result {
  std::vector<float> rounded, target;
};
template <typename Run>
Result RunNearest(const FeedbackInput& input, const Run& run) {
  Result result;
  result.rounded.resize(input.rows * input.columns);
  result.target.resize(input.rows * input.columns);
  run([&](const ColumnTile& tile, float* target, float* rounded) {
    RoundRows(tile, target, rounded, [](int64_t, float t) { return Nearest(t); });
    for (int64_t r = 0; r < tile.rows; ++r) {
      const int64_t at = tile.row[r] * input.columns + tile.column;
      EXPECT_EQ(tile.original[r], input.w[at]);
      result.rounded[at] = rounded[r];
      result.target[at] = target[r];
    }
  });
  return result;
}

Result Fast(const FeedbackInput& input, int threads = 1) {
  ThreadPool pool(threads);
  return RunNearest(input,
                    [&](const RoundColumn& round) { RoundWithFeedback(input, pool, round); });
}

// The blocked version and the definition take the same decisions but where a target lies on the
// edge of two levels: one such decision changes all that follow, so the reference replays the fast
// version's decisions and only targets are compared.
void ExpectLikeReference(const FeedbackInput& input) {
  const Result fast = Fast(input);
  int64_t calls = 0;
  RoundWithFeedbackReference(input, [&](const ColumnTile& tile, float* target, float* rounded) {
    ++calls;
    RoundRows(tile, target, rounded, [&](int64_t r, float t) {
      const int64_t at = tile.row[r] * input.columns + tile.column;
      EXPECT_NEAR(t, fast.target[at], 3e-4);
      return fast.rounded[at];
    });
  });
  EXPECT_GT(calls, 0);
}

TEST(Feedback, TargetsFollowTheDefinition) {
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 40}, {40, 1}, {5, 3}, {70, 20}, {33, 129}, {20, 260}}) {
    const CurvatureFactor inputs = Factor(CorrelatedMoments(n, 3 * n + 5, n), n);
    Draws draws(m * n);
    const std::vector<float> w = draws.Normals(m * n);
    for (const CurvatureFactor* factor : {static_cast<const CurvatureFactor*>(nullptr), &inputs}) {
      for (const bool lower : {false, true}) {
        for (const int64_t tile_rows : {7, 64}) {
          const RowBlock one[] = {Block(0, m, lower)};
          ExpectLikeReference({w.data(), m, n, factor, one, tile_rows});
          if (m < 2) continue;
          const RowBlock two[] = {Block(0, m / 3 + 1, lower),
                                  Block(m / 3 + 1, m - m / 3 - 1, true)};
          ExpectLikeReference({w.data(), m, n, factor, two, tile_rows});
        }
      }
    }
  }
}

TEST(Feedback, AnyNumberOfThreadsGivesTheSame) {
  constexpr int64_t kM = 90, kN = 300;
  const CurvatureFactor inputs = Factor(CorrelatedMoments(kN, 400, 1), kN);
  const std::vector<float> w = Draws(1).Normals(kM * kN);
  for (const int64_t block : {kM, kM / 3}) {
    std::vector<RowBlock> blocks;
    for (int64_t first = 0; first < kM; first += block) blocks.push_back(Block(first, block, true));
    const FeedbackInput input{w.data(), kM, kN, &inputs, blocks, 16};
    const Result one = Fast(input);
    for (const int threads : {2, 3, 8}) EXPECT_EQ(Fast(input, threads).rounded, one.rounded);
  }
}

// tr(H_O E H_I E^T).
double Distortion(const std::vector<float>& w, const std::vector<float>& rounded,
                  const std::vector<float>& ho, const std::vector<float>& hi, int64_t m,
                  int64_t n) {
  std::vector<double> eh(m * n);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      const double e = static_cast<double>(rounded[r * n + i]) - w[r * n + i];
      for (int64_t j = 0; j < n; ++j) eh[r * n + j] += e * hi[i * n + j];
    }
  }
  double sum = 0;
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t q = 0; q < m; ++q) {
      double product = 0;
      for (int64_t j = 0; j < n; ++j) {
        product += eh[r * n + j] * (static_cast<double>(rounded[q * n + j]) - w[q * n + j]);
      }
      sum += ho[q * m + r] * product;
    }
  }
  return sum;
}

TEST(Feedback, EachSideLowersTheDistortion) {
  constexpr int64_t kM = 100, kN = 80;
  const std::vector<float> hi = CorrelatedMoments(kN, 4 * kN, 2);
  const std::vector<float> ho = CorrelatedMoments(kM, 4 * kM, 3);
  const CurvatureFactor inputs = Factor(hi, kN);
  std::vector<int32_t> natural(kM);
  std::iota(natural.begin(), natural.end(), 0);
  RowBlock plain[1], fed[1];
  plain[0].rows = fed[0].rows = natural;
  fed[0].lower = FactorInOrder(ho, natural, 0.01)->lower;
  const std::vector<float> w = Draws(4).Normals(kM * kN);
  const auto distortion = [&](const CurvatureFactor* factor, std::span<const RowBlock> blocks) {
    return Distortion(w, Fast({w.data(), kM, kN, factor, blocks, 32}).rounded, ho, hi, kM, kN);
  };
  const double none = distortion(nullptr, plain), one = distortion(&inputs, plain),
               two = distortion(&inputs, fed);
  EXPECT_LT(one, 0.6 * none);
  EXPECT_LT(two, 0.6 * one);
}

TEST(Feedback, WithoutCorrelationItIsPlainRounding) {
  constexpr int64_t kM = 30, kN = 140;
  std::vector<float> h(kN * kN, 0.0f);
  for (int64_t i = 0; i < kN; ++i) h[i * kN + i] = 1 + (i * 5) % 7;
  const CurvatureFactor inputs = Factor(h, kN);
  const RowBlock blocks[] = {Block(0, kM, false)};
  const std::vector<float> w = Draws(1).Normals(kM * kN);
  const Result result = Fast({w.data(), kM, kN, &inputs, blocks, 64});
  for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(result.rounded[i], Nearest(w[i]));
}

}  // namespace
}  // namespace cvxq
