#include "quant/affine_codecs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "quant/affine.h"
#include "tensor/dtype.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

CurvatureFactor Factor(const std::vector<float>& h, int64_t n,
                       WorkOrder order = WorkOrder::kLargestFirst, double damping = 0.01) {
  StatusOr<CurvatureFactor> factor = FactorCurvature(h, n, damping, order);
  EXPECT_TRUE(factor.ok()) << factor.status();
  return *std::move(factor);
}

std::vector<RowBlock> IndependentRows(int64_t rows) {
  RowBlock block;
  block.rows.resize(rows);
  std::iota(block.rows.begin(), block.rows.end(), 0);
  return {block};
}

std::vector<float> Diagonal(const std::vector<float>& h, int64_t n) {
  std::vector<float> diagonal(n);
  for (int64_t i = 0; i < n; ++i) diagonal[i] = h[i * n + i];
  return diagonal;
}

// On the host.
AffineMatrix Gptq(const AffineInput& input, std::span<const RowBlock> blocks, GroupRange range,
                  ThreadPool& pool) {
  return CodeGptq(input, blocks, range, pool, *MakeCpuRounder(pool)).value();
}
StatusOr<AffineMatrix> Owq(const AffineInput& input, std::span<const float> moments, double bits,
                           ThreadPool& pool) {
  return CodeOwq(input, moments, bits, pool, *MakeCpuRounder(pool));
}

// tr(H_O E H_I E^T) of the decoded matrix; an empty H_O is the identity.
double Distortion(const AffineMatrix& m, const std::vector<float>& w, const std::vector<float>& hi,
                  const std::vector<float>& ho = {}) {
  const std::vector<float> decoded = Decode(m);
  const int64_t rows = m.rows, n = m.columns;
  std::vector<double> e(rows * n), eh(rows * n);
  for (int64_t i = 0; i < rows * n; ++i) e[i] = static_cast<double>(decoded[i]) - w[i];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) eh[r * n + j] += e[r * n + i] * hi[i * n + j];
    }
  }
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t s = 0; s < rows; ++s) {
      const double weight = ho.empty() ? (r == s ? 1.0 : 0.0) : ho[r * rows + s];
      if (weight == 0) continue;
      for (int64_t i = 0; i < n; ++i) sum += weight * eh[r * n + i] * e[s * n + i];
    }
  }
  return sum;
}

// A linear with correlated inputs and outputs, in groups that do not divide its columns.
struct Linear {
  int64_t rows, columns;
  std::vector<float> w, hi, ho;

  Linear(int64_t m, int64_t n, uint64_t key)
      : rows(m),
        columns(n),
        w(Draws(key).Normals(m * n, 0.1f)),
        hi(CorrelatedMoments(n, 3 * n, key + 1)),
        ho(CorrelatedMoments(m, 3 * m, key + 2)) {}
  AffineInput Input(const CurvatureFactor* factor, int bits = 3, int64_t group = 16) const {
    return {.w = w.data(),
            .rows = rows,
            .columns = columns,
            .bits = bits,
            .group = group,
            .inputs = factor};
  }
};

TEST(Rtn, RoundsByHand) {
  ThreadPool pool(1);
  const std::vector<float> w = {-1, 0.4f, 2, /**/ 3, 0, 1.4f};
  const AffineMatrix m =
      CodeRtn({.w = w.data(), .rows = 2, .columns = 3, .bits = 2, .group = 8}, pool);
  ASSERT_TRUE(m.Validate().ok()) << m.Validate();
  EXPECT_EQ(m.codes, (std::vector<uint8_t>{0, 1, 3, 3, 0, 1}));
  EXPECT_EQ(Decode(m), (std::vector<float>{-1, 0, 2, 3, 0, 1}));
}

// Columns 0 and 1 are correlated by .8 and worked in this order. The grid is 0 1 2 3; 1.4 becomes
// 1, an error of -.4, so that 1.3 + .32 is left for column 1.
TEST(Gptq, CarriesTheErrorByHand) {
  ThreadPool pool(1);
  const std::vector<float> h = {1, 0.8f, 0, 0.8f, 1, 0, 0, 0, 1};
  const CurvatureFactor factor = Factor(h, 3, WorkOrder::kFirstFirst, 0);
  const std::vector<float> w = {1.4f, 1.3f, 3};
  const AffineInput input{
      .w = w.data(), .rows = 1, .columns = 3, .bits = 2, .group = 3, .inputs = &factor};
  EXPECT_EQ(Decode(Gptq(input, IndependentRows(1), GroupRange::kOriginal, pool)),
            (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(Decode(CodeRtn(input, pool)), (std::vector<float>{1, 1, 3}));
}

// The same with columns 1 and 2 changed places and groups of two: the second group, column 2, is
// fitted to 1.3 before feedback and to 1.3 + .32 after.
TEST(Gptq, FitsTheGroupReachedToItsTargets) {
  ThreadPool pool(1);
  const std::vector<float> h = {1, 0, 0.8f, 0, 1, 0, 0.8f, 0, 1};
  const CurvatureFactor factor = Factor(h, 3, WorkOrder::kFirstFirst, 0);
  const std::vector<float> w = {1.4f, 3, 1.3f};
  const AffineInput input{
      .w = w.data(), .rows = 1, .columns = 3, .bits = 2, .group = 2, .inputs = &factor};
  const AffineMatrix m = Gptq(input, IndependentRows(1), GroupRange::kReached, pool);
  EXPECT_NEAR(m.scale[1], 1.62f / 3, 1e-3);
  EXPECT_NEAR(Decode(m)[2], 1.62f, 2e-3);
  const AffineMatrix before = Gptq(input, IndependentRows(1), GroupRange::kOriginal, pool);
  EXPECT_NEAR(before.scale[1], 1.3f / 3, 1e-3);
}

TEST(Gptq, WithoutCorrelationIsRtn) {
  ThreadPool pool(2);
  const Linear linear(20, 70, 1);
  std::vector<float> h(70 * 70);
  for (int64_t i = 0; i < 70; ++i) h[i * 70 + i] = 1 + (i * 5) % 7;
  const CurvatureFactor factor = Factor(h, 70);
  const AffineMatrix rtn = CodeRtn(linear.Input(nullptr), pool);
  for (const GroupRange range : {GroupRange::kOriginal, GroupRange::kReached}) {
    for (const CurvatureFactor* inputs : {&factor, static_cast<const CurvatureFactor*>(nullptr)}) {
      const AffineMatrix m = Gptq(linear.Input(inputs), IndependentRows(20), range, pool);
      EXPECT_EQ(m.codes, rtn.codes);
      EXPECT_EQ(m.scale, rtn.scale);
      EXPECT_EQ(m.zero, rtn.zero);
    }
  }
}

TEST(Gptq, LowersTheErrorOfRtnInEveryRangeAndOrder) {
  ThreadPool pool(2);
  for (const int bits : {2, 3, 4, 8}) {
    const Linear linear(70, 150, bits);
    const double nearest =
        Distortion(CodeRtn(linear.Input(nullptr, bits), pool), linear.w, linear.hi);
    for (const WorkOrder order : {WorkOrder::kFirstFirst, WorkOrder::kLargestFirst}) {
      const CurvatureFactor factor = Factor(linear.hi, 150, order);
      for (const GroupRange range :
           {GroupRange::kReached, GroupRange::kOriginal, GroupRange::kTrimmed}) {
        const AffineMatrix m = Gptq(linear.Input(&factor, bits), IndependentRows(70), range, pool);
        ASSERT_TRUE(m.Validate().ok()) << m.Validate();
        EXPECT_LT(Distortion(m, linear.w, linear.hi), 0.75 * nearest) << bits;
        if (range == GroupRange::kReached) continue;
        AffineMatrix expected = m;
        FitGrids(linear.w.data(), range == GroupRange::kTrimmed ? TrimmedShare(bits, 16) : 1.0f, {},
                 pool, expected);
        EXPECT_EQ(m.scale, expected.scale);
        EXPECT_EQ(m.zero, expected.zero);
      }
    }
  }
}

TEST(Gptq, TwoSidedLowersTheTwoSidedErrorFurther) {
  ThreadPool pool(2);
  const Linear linear(96, 80, 9);
  const CurvatureFactor inputs = Factor(linear.hi, 80), outputs = Factor(linear.ho, 96);
  const std::vector<RowBlock> two = {{outputs.order, outputs.lower}};
  const AffineInput input = linear.Input(&inputs);
  const auto distortion = [&](std::span<const RowBlock> blocks) {
    return Distortion(Gptq(input, blocks, GroupRange::kTrimmed, pool), linear.w, linear.hi,
                      linear.ho);
  };
  const double one_sided = distortion(IndependentRows(96));
  EXPECT_LT(one_sided, 0.75 * Distortion(CodeRtn(input, pool), linear.w, linear.hi, linear.ho));
  EXPECT_LT(distortion(two), 0.75 * one_sided);
}

TEST(AffineCodecs, SameForAnyNumberOfThreads) {
  const Linear linear(300, 90, 11);
  const CurvatureFactor factor = Factor(linear.hi, 90, WorkOrder::kFirstFirst);
  const std::vector<float> moments = Diagonal(linear.hi, 90);
  const AffineInput input = linear.Input(&factor);
  ThreadPool one(1), four(4);
  const auto same = [](const AffineMatrix& a, const AffineMatrix& b) {
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.scale, b.scale);
    EXPECT_EQ(a.zero, b.zero);
    EXPECT_EQ(a.kept, b.kept);
  };
  std::vector<RowBlock> rows(2);
  for (int32_t r = 0; r < 300; ++r) rows[r % 3 == 0].rows.push_back(r);
  same(CodeRtn(input, one), CodeRtn(input, four));
  same(Gptq(input, rows, GroupRange::kReached, one), Gptq(input, rows, GroupRange::kReached, four));
  same(CodeAwq(input, moments, 9, true, one), CodeAwq(input, moments, 9, true, four));
  same(Owq(input, moments, 3.3, one).value(), Owq(input, moments, 3.3, four).value());
  EXPECT_EQ(MeasureAwqErrors(input, moments, one), MeasureAwqErrors(input, moments, four));
}

TEST(Awq, ScalesAreNormalisedPowersOfTheInputs) {
  ThreadPool pool(1);
  const std::vector<float> w = {1, 1, 1};
  const std::vector<float> moments = {16, 1, 0.0625f};
  const AffineInput input{.w = w.data(), .rows = 1, .columns = 3, .bits = 4, .group = 3};
  EXPECT_EQ(CodeAwq(input, moments, 0, false, pool).column_scale, (std::vector<float>{1, 1, 1}));
  const AffineMatrix m = CodeAwq(input, moments, 10, false, pool);  // alpha = 1/2
  EXPECT_EQ(m.column_scale, (std::vector<float>{2, 1, 0.5f}));
  EXPECT_NEAR(Decode(m)[1], 1, 0.07);
}

TEST(Awq, ErrorsAreThoseOfTheDecodedMatrices) {
  ThreadPool pool(2);
  const Linear linear(70, 300, 13);  // more columns than a panel, more rows than a tile
  const CurvatureFactor factor = Factor(linear.hi, 300, WorkOrder::kLargestFirst, 1e-6);
  const std::vector<float> moments = Diagonal(linear.hi, 300);
  const AffineInput input = linear.Input(&factor);
  const AwqErrors errors = MeasureAwqErrors(input, moments, pool);
  for (const int i : {0, 7, 19}) {
    const double expected =
        Distortion(CodeAwq(input, moments, i, false, pool), linear.w, linear.hi);
    EXPECT_NEAR(errors[i] / expected, 1, 1e-3);
  }
  EXPECT_NEAR(errors[0] / Distortion(CodeRtn(input, pool), linear.w, linear.hi), 1, 1e-3);
}

TEST(Awq, BestExponentIsTheFirstOfTheLeast) {
  AwqErrors errors;
  errors.fill(2);
  errors[4] = errors[9] = 1;
  EXPECT_EQ(BestAwqExponent(errors), 4);
}

TEST(Awq, HelpsWhereFewInputsAreLarge) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 64, kN = 96;
  Linear linear(kRows, kN, 15);
  std::fill(linear.hi.begin(), linear.hi.end(), 0.0f);
  for (int64_t i = 0; i < kN; ++i) linear.hi[i * kN + i] = i % 16 == 3 ? 400 : 1;
  const CurvatureFactor factor = Factor(linear.hi, kN, WorkOrder::kLargestFirst, 0);
  const std::vector<float> moments = Diagonal(linear.hi, kN);
  const AffineInput input = linear.Input(&factor);
  const int best = BestAwqExponent(MeasureAwqErrors(input, moments, pool));
  EXPECT_GT(best, 0);
  const double nearest = Distortion(CodeRtn(input, pool), linear.w, linear.hi);
  EXPECT_LT(Distortion(CodeAwq(input, moments, best, false, pool), linear.w, linear.hi),
            0.5 * nearest);
}

TEST(Awq, ClippingTakesTheShareOfLeastErrorInEachGroup) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 70, kN = 40;
  const Linear linear(kRows, kN, 17);
  const CurvatureFactor factor = Factor(linear.hi, kN, WorkOrder::kLargestFirst, 0);
  const std::vector<float> moments = Diagonal(linear.hi, kN);
  for (const int bits : {2, 3, 4}) {
    const AffineInput input = linear.Input(&factor, bits, kN);
    const AffineMatrix plain = CodeAwq(input, moments, 5, false, pool);
    const AffineMatrix clipped = CodeAwq(input, moments, 5, true, pool);
    ASSERT_TRUE(clipped.Validate().ok()) << clipped.Validate();
    EXPECT_EQ(clipped.column_scale, plain.column_scale);
    int cut = 0;
    for (int64_t r = 0; r < kRows; ++r) {  // one group a row: its error is the row's
      std::vector<float> w(kN), row(&linear.w[r * kN], &linear.w[r * kN] + kN);
      for (int64_t c = 0; c < kN; ++c) w[c] = row[c] * plain.column_scale[c];
      const ValueRange range = RangeOf(w.data(), kN);
      const float largest = std::max(-range.low, range.high);
      AffineMatrix m = StartAffineMatrix(1, kN, bits, kN);
      m.column_scale = plain.column_scale;
      double least = 0;
      for (int step = 0; step < 10; ++step) {
        const float end = (1 - 0.05f * step) * largest;
        SetGrid(m, 0, GridOfRange({std::max(range.low, -end), std::min(range.high, end)}, bits));
        RoundToNearest(w.data(), pool, m);
        const double error = Distortion(m, row, linear.hi);
        if (step == 0 || error < least) least = error;
      }
      std::copy_n(&clipped.codes[r * kN], kN, m.codes.begin());
      SetGrid(m, 0, GridAt(clipped, r));
      EXPECT_NEAR(Distortion(m, row, linear.hi) / least, 1, 1e-3);
      cut += clipped.scale[r] < plain.scale[r];
    }
    EXPECT_GT(cut, 5);
  }
}

TEST(Owq, KeepsTheMostSensitiveColumnsAtTheWidthAskedFor) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 32, kN = 130;
  const Linear linear(kRows, kN, 19);
  std::vector<float> moments = Diagonal(linear.hi, kN);
  moments[7] = moments[100] = 1e6f;
  const CurvatureFactor factor = Factor(linear.hi, kN);
  // Two columns of 130 at 16 bits in place of 3: 3.2.
  const StatusOr<AffineMatrix> m = Owq(linear.Input(&factor), moments, 3.2, pool);
  ASSERT_TRUE(m.ok()) << m.status();
  ASSERT_TRUE(m->Validate().ok()) << m->Validate();
  EXPECT_EQ(m->bits, 3);
  EXPECT_EQ(m->kept_columns, (std::vector<int32_t>{7, 100}));
  const auto kept = [&](double bits) {
    return Owq(linear.Input(&factor), moments, bits, pool)->kept_columns.size();
  };
  EXPECT_EQ(kept(3.3), 3u);  // although 3.3 - 3 is a little less than 0.3
  EXPECT_EQ(kept(3.19), 1u);
  EXPECT_EQ(kept(3), 0u);
  EXPECT_EQ(Owq(linear.Input(&factor), moments, 4, pool)->bits, 4);
}

TEST(Owq, SensitivityCountsTheErrorOfRounding) {
  ThreadPool pool(1);
  constexpr int64_t kN = 15;
  const std::vector<float> w = {3, 0, 1, 2, 0, 1.5f, 3, 3, 3, 0.2f, 1, 1, 2, 2, 0};  // steps of 1
  const std::vector<float> moments(kN, 1.0f);
  const AffineInput input{.w = w.data(), .rows = 1, .columns = kN, .group = kN};
  EXPECT_EQ(Owq(input, moments, 2.95, pool)->kept_columns, (std::vector<int32_t>{5}));
}

// Columns 0 and 1 are alike: what the coded one loses, the kept one makes up for.
TEST(Owq, KeptColumnsMakeUpForTheOthers) {
  ThreadPool pool(1);
  constexpr int64_t kN = 15;
  std::vector<float> w(kN), h(kN * kN), moments(kN, 1.0f);
  w[0] = 0.3f;
  w[1] = 100.7f;  // far out: the grid of the others must not span it
  w[2] = 3;
  for (int64_t i = 0; i < kN; ++i) h[i * kN + i] = 1;
  h[1] = h[kN] = 1;
  moments[1] = 1e6f;
  const CurvatureFactor factor = Factor(h, kN, WorkOrder::kLargestFirst, 1e-6);
  const AffineInput input{.w = w.data(), .rows = 1, .columns = kN, .group = kN, .inputs = &factor};
  const StatusOr<AffineMatrix> m = Owq(input, moments, 2.95, pool);
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->kept_columns, (std::vector<int32_t>{1}));
  const std::vector<float> decoded = Decode(*m);
  EXPECT_EQ(decoded[0], 0);
  EXPECT_NEAR(decoded[1], 101, 1e-3);
  EXPECT_EQ(decoded[2], 3);
}

TEST(Owq, KeptColumnsLowerTheError) {
  ThreadPool pool(2);
  const Linear linear(64, 128, 21);
  const CurvatureFactor factor = Factor(linear.hi, 128);
  const std::vector<float> moments = Diagonal(linear.hi, 128);
  const auto distortion = [&](double bits) {
    return Distortion(Owq(linear.Input(&factor), moments, bits, pool).value(), linear.w, linear.hi);
  };
  EXPECT_EQ(distortion(3), Distortion(Gptq(linear.Input(&factor), IndependentRows(64),
                                           GroupRange::kOriginal, pool),
                                      linear.w, linear.hi));
  EXPECT_LT(distortion(3.3), 0.95 * distortion(3));
  EXPECT_LT(distortion(5), 0.5 * distortion(3));
}

// Rows of zeros, constant groups, one column, one row, huge and tiny weights, inputs that never
// fire: every codec gives a valid matrix that decodes to finite values.
TEST(AffineCodecs, OddInputsGiveSoundMatrices) {
  ThreadPool pool(2);
  const int64_t shapes[][2] = {{1, 1}, {5, 1}, {1, 40}, {9, 33}, {70, 20}};
  for (const auto& [rows, n] : shapes) {
    for (int kind = 0; kind < 6; ++kind) {
      Linear linear(rows, n, 23 + kind);
      Draws draws(kind);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          float& w = linear.w[r * n + c];
          if (kind == 0) w = 0;
          if (kind == 1 && r % 2 == 0) w = 0;
          if (kind == 2) w = c / 16 % 2 == 0 ? -0.5f : 3;
          if (kind == 3) w *= 1e36f;
          if (kind == 4) w *= 1e-30f;
        }
      }
      if (kind == 5) std::fill(linear.hi.begin(), linear.hi.end(), 0.0f);
      const CurvatureFactor factor = Factor(linear.hi, n);
      const CurvatureFactor natural = Factor(linear.hi, n, WorkOrder::kFirstFirst);
      const CurvatureFactor outputs = Factor(linear.ho, rows);
      const std::vector<RowBlock> two = {{outputs.order, outputs.lower}};
      const std::vector<float> moments = Diagonal(linear.hi, n);
      const AffineInput input = linear.Input(&factor);
      const AwqErrors errors = MeasureAwqErrors(input, moments, pool);
      for (const double error : errors) EXPECT_TRUE(error >= 0 && std::isfinite(error));
      const AffineMatrix matrices[] = {
          CodeRtn(input, pool),
          Gptq(linear.Input(&natural), IndependentRows(rows), GroupRange::kReached, pool),
          Gptq(input, two, GroupRange::kTrimmed, pool),
          CodeAwq(input, moments, BestAwqExponent(errors), false, pool),
          CodeAwq(input, moments, 19, true, pool),
          Owq(input, moments, 3.9, pool).value()};
      for (const AffineMatrix& m : matrices) {
        ASSERT_TRUE(m.Validate().ok()) << m.Validate() << " kind " << kind;
        const std::vector<float> decoded = Decode(m);
        for (const float value : decoded) EXPECT_TRUE(std::isfinite(value));
        if (kind != 0) continue;
        for (const float value : decoded) EXPECT_EQ(value, 0);
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
