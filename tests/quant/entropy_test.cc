#include "quant/entropy.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "quant/entropy_tables.h"
#include "quant/scaled_format.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

// A linear with correlated inputs and outputs. Keeps what EntropyInput refers to.
struct Linear {
  std::vector<float> w, hi, ho, row_curvature, column_curvature;
  CurvatureFactor inputs;
  std::vector<RowBlock> blocks;
  EntropyInput input;
};

Linear MakeLinear(int64_t m, int64_t n, int64_t block, double delta, uint64_t key) {
  Linear linear;
  linear.w = Draws(key).Normals(m * n);
  linear.hi = CorrelatedMoments(n, 3 * n + 2, key + 1);
  linear.inputs = *FactorCurvature(linear.hi, n, 0, WorkOrder::kFirstFirst);
  linear.column_curvature.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    linear.column_curvature[linear.inputs.order[i]] = linear.inputs.diagonal[i];
  }
  linear.ho.assign(m * m, 0.0f);
  linear.row_curvature.resize(m);
  for (int64_t first = 0; first < m; first += block) {
    const int64_t rows = std::min(block, m - first);
    const std::vector<float> h = CorrelatedMoments(rows, 3 * rows + 2, key + 2 + first);
    std::vector<int32_t> order(rows);
    std::iota(order.rbegin(), order.rend(), 0);
    const CurvatureFactor factor = *FactorInOrder(h, order, 0);
    RowBlock& of_rows = linear.blocks.emplace_back();
    of_rows.lower = factor.lower;
    for (int64_t i = 0; i < rows; ++i) {
      of_rows.rows.push_back(static_cast<int32_t>(first + order[i]));
      linear.row_curvature[first + order[i]] = factor.diagonal[i];
      for (int64_t j = 0; j < rows; ++j) linear.ho[(first + i) * m + first + j] = h[i * rows + j];
    }
  }
  linear.input = {.w = linear.w.data(),
                  .rows = m,
                  .columns = n,
                  .inputs = &linear.inputs,
                  .blocks = linear.blocks,
                  .row_curvature = linear.row_curvature,
                  .column_curvature = linear.column_curvature,
                  .delta = delta};
  return linear;
}

struct Coded {
  ScaledCodes codes;
  double distortion = 0;
};

Coded Code(const Linear& linear, int threads = 1) {
  EntropyInput input = linear.input;  // a Linear may have been moved
  input.w = linear.w.data();
  input.inputs = input.inputs != nullptr ? &linear.inputs : nullptr;
  input.blocks = linear.blocks;
  input.row_curvature = linear.row_curvature;
  input.column_curvature = linear.column_curvature;
  ThreadPool pool(threads);
  Coded coded{StartScaledCodes(input)};
  coded.distortion =
      CodeEntropy(input, PricesOf(nullptr), *MakeCpuRounder(pool), coded.codes).value();
  AssignClasses(coded.codes);
  return coded;
}

// Through the bytes and back.
std::vector<float> Decoded(const Coded& coded) {
  SymbolCounts counts;
  counts.Add(coded.codes);
  const EntropyTables tables = EntropyTables::Train(counts);
  const StatusOr<ScaledMatrix> matrix = ParseScaledMatrix(
      SerializeScaledMatrix(coded.codes, tables), tables, coded.codes.rows, coded.codes.columns);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  return Decode(*matrix);
}

// 1/2 tr(H_O E H_I E^T).
double Distortion(const Linear& linear, const std::vector<float>& decoded) {
  const int64_t m = linear.input.rows, n = linear.input.columns;
  std::vector<double> error(m * n), eh(m * n);
  for (int64_t i = 0; i < m * n; ++i) error[i] = static_cast<double>(decoded[i]) - linear.w[i];
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) eh[r * n + j] += error[r * n + i] * linear.hi[i * n + j];
    }
  }
  double sum = 0;
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t q = 0; q < m; ++q) {
      double product = 0;
      for (int64_t j = 0; j < n; ++j) product += eh[r * n + j] * error[q * n + j];
      sum += 0.5 * linear.ho[q * m + r] * product;
    }
  }
  return sum;
}

// The whole codec in one equation: what the coder says it lost is what the decoded matrix lost.
TEST(Entropy, PredictedDistortionIsThatOfTheDecodedMatrix) {
  for (const auto& [m, n, block] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {40, 1, 40}, {1, 40, 1}, {70, 33, 70}, {150, 40, 64}, {30, 150, 30}}) {
    for (const double delta : {0.05, 0.5, 4.0}) {
      const Linear linear = MakeLinear(m, n, block, delta, m * n);
      const Coded coded = Code(linear);
      const double measured = Distortion(linear, Decoded(coded));
      EXPECT_NEAR(coded.distortion, measured, 0.01 * measured + 1e-6)
          << m << " x " << n << ", delta " << delta;
    }
  }
}

TEST(Entropy, AnyNumberOfThreadsGivesTheSame) {
  for (const int64_t block : {160, 64}) {
    const Linear linear = MakeLinear(160, 200, block, 0.4, 5);
    const Coded one = Code(linear);
    for (const int threads : {2, 3}) {
      const Coded many = Code(linear, threads);
      EXPECT_EQ(many.codes.integers, one.codes.integers);
      EXPECT_EQ(many.distortion, one.distortion);
    }
  }
}

// The slope of the rate is the same for all weights: at high rate the distortion of each is
// that of the grid, whatever its curvature.
TEST(Entropy, DistortionOfAWeightIsSetByDeltaAlone) {
  const double delta = 0.05;
  const Linear linear = MakeLinear(128, 96, 128, delta, 6);
  const Coded coded = Code(linear);
  const double of_weight = coded.distortion / (128 * 96) / (delta * delta);
  EXPECT_GT(of_weight, 0.5 * 0.5 * 4 / 12);  // half of the squared error; the trellis keeps
  EXPECT_LT(of_weight, 0.5 * 0.9 * 4 / 12);  // about three quarters of a grid of step 2
}

TEST(Entropy, WithoutCurvatureNothingIsKept) {
  Linear linear = MakeLinear(20, 30, 20, 0.1, 7);
  std::fill(linear.row_curvature.begin(), linear.row_curvature.end(), 0.0f);
  for (const float w : Decoded(Code(linear))) EXPECT_EQ(w, 0);
}

TEST(Entropy, ZerosStayZero) {
  Linear linear = MakeLinear(40, 24, 40, 0.2, 8);
  std::fill(linear.w.begin(), linear.w.end(), 0.0f);
  const Coded coded = Code(linear);
  EXPECT_EQ(coded.distortion, 0);
  for (const float w : Decoded(coded)) EXPECT_EQ(w, 0);
}

// The trellis may pass through a code next to zero, no further.
TEST(Entropy, ARowAndAColumnOfZerosDoNoHarm) {
  Linear linear = MakeLinear(40, 24, 40, 0.2, 8);
  linear.input.inputs = nullptr;  // no errors of others
  for (RowBlock& block : linear.blocks) block.lower.clear();
  std::fill_n(&linear.w[7 * 24], 24, 0.0f);
  for (int64_t r = 0; r < 40; ++r) linear.w[r * 24 + 3] = 0;
  const std::vector<float> decoded = Decoded(Code(linear));
  const auto step = [&](int64_t r, int64_t c) {
    return 0.2 * std::exp2(0.25) / std::sqrt(linear.row_curvature[r] * linear.column_curvature[c]);
  };
  for (int64_t c = 0; c < 24; ++c) EXPECT_LE(std::abs(decoded[7 * 24 + c]), 2 * step(7, c));
  for (int64_t r = 0; r < 40; ++r) EXPECT_LE(std::abs(decoded[r * 24 + 3]), 2 * step(r, 3));
}

TEST(Entropy, OutliersSurvive) {
  Linear linear = MakeLinear(16, 12, 16, 0.1, 9);
  linear.w[5 * 12 + 4] = 300;
  linear.w[9 * 12 + 7] = -500;
  const std::vector<float> decoded = Decoded(Code(linear));
  EXPECT_NEAR(decoded[5 * 12 + 4], 300, 2);
  EXPECT_NEAR(decoded[9 * 12 + 7], -500, 2);
}

TEST(SpreadHistogram, ForeseesBitsAndMerges) {
  const Linear linear = MakeLinear(64, 48, 64, 1, 10);
  const ScaledCodes codes = StartScaledCodes(linear.input);
  SpreadHistogram one, two;
  one.Add(linear.input, codes);
  two.Add(linear.input, codes);
  two.Merge(one);
  EXPECT_EQ(one.weights(), 64 * 48);
  EXPECT_EQ(two.weights(), 2 * 64 * 48);
  EXPECT_NEAR(two.Bits(-3), 2 * one.Bits(-3), 1e-9);
  EXPECT_NEAR(one.Bits(-9) - one.Bits(-8), 64 * 48, 200);  // a bit an octave
  for (const double bits : {0.3, 2.0, 6.0}) {
    const double log2_delta = AscendDelta(one, 0.9, bits * one.weights(), 5);
    EXPECT_NEAR(0.9 * one.Bits(log2_delta) / one.weights(), bits, 1e-4);
  }
}

}  // namespace
}  // namespace cvxq
