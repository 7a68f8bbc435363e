#include "formats/grid_coder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "formats/ggml_types.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

std::vector<const GgmlType*> GridTypes() {
  std::vector<const GgmlType*> grids;
  for (const GgmlType* type : GgmlTypes()) {
    if (!type->dense()) grids.push_back(type);
  }
  return grids;
}

// A linear with correlated inputs and outputs, and both factors.
struct Linear {
  int64_t rows, columns;
  std::vector<float> w;
  CurvatureFactor inputs;
  std::vector<RowBlock> blocks;
  std::vector<float> row_weight;

  Linear(int64_t rows, int64_t columns, int64_t row_block) : rows(rows), columns(columns) {
    Draws draws(7);
    w = draws.Normals(rows * columns, 0.05f);
    inputs = *FactorCurvature(CorrelatedMoments(columns, 2 * columns, 1), columns, 0.01);
    row_weight.resize(rows);
    for (int64_t first = 0; first < rows; first += row_block) {
      const int64_t n = std::min(row_block, rows - first);
      const CurvatureFactor outputs = *FactorCurvature(CorrelatedMoments(n, 2 * n, 2), n, 0.1);
      RowBlock& block = blocks.emplace_back();
      block.lower = outputs.lower;
      for (int64_t i = 0; i < n; ++i) {
        block.rows.push_back(static_cast<int32_t>(first + outputs.order[i]));
        row_weight[block.rows.back()] = outputs.diagonal[i];
      }
    }
  }

  GridInput TwoSided() const {
    return {.w = w.data(),
            .rows = rows,
            .columns = columns,
            .inputs = &inputs,
            .blocks = blocks,
            .row_weight = row_weight};
  }
  GridInput OneSided() const {
    GridInput input = TwoSided();
    input.blocks = {};
    return input;
  }

  // sum D_O D_I (L_O^T E L_I)^2, in double.
  double Distortion(const std::vector<float>& decoded) const {
    double sum = 0;
    for (const RowBlock& block : blocks) {
      const auto n = static_cast<int64_t>(block.rows.size());
      std::vector<double> left(n * columns), both(n * columns);  // L_O^T E, by places of columns
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = i; k < n; ++k) {
          const double l = i == k ? 1.0 : block.lower[k * n + i];
          const int64_t row = block.rows[k] * columns;
          for (int64_t c = 0; c < columns; ++c) {
            const int64_t at = row + inputs.order[c];
            left[i * columns + c] += l * (static_cast<double>(decoded[at]) - w[at]);
          }
        }
        for (int64_t c = 0; c < columns; ++c) {
          double value = left[i * columns + c];
          for (int64_t k = c + 1; k < columns; ++k) {
            value += left[i * columns + k] * inputs.lower[k * columns + c];
          }
          sum += row_weight[block.rows[i]] * inputs.diagonal[c] * value * value;
        }
      }
    }
    return sum;
  }
};

void ExpectSound(const GridMatrix& m) {
  for (const float step : m.step) ASSERT_TRUE(std::isfinite(step)) << m.type->name();
  for (const float offset : m.offset) ASSERT_TRUE(std::isfinite(offset)) << m.type->name();
  for (const uint8_t code : m.codes) ASSERT_LT(code, m.type->levels().size());
  // The grids are those that the fields stand for.
  std::vector<float> step(m.step.size()), offset(m.offset.size());
  m.type->Grids(m.fields.data(), m.rows * m.columns / m.type->block(), m.matrix_scale, step.data(),
                offset.empty() ? nullptr : offset.data());
  EXPECT_EQ(step, m.step);
  EXPECT_EQ(offset, m.offset);
}

TEST(GridCoderTest, DistortionIsThatOfTheDecodedMatrix) {
  const Linear linear(37, 256, 20);
  ThreadPool pool(1);
  for (const GgmlType* type : GridTypes()) {
    for (const int refits : {0, 1}) {
      const GridMatrix m = CodeOnGrids(linear.TwoSided(), *type, pool, refits);
      ExpectSound(m);
      const double expected = linear.Distortion(Decode(m));
      EXPECT_NEAR(m.distortion, expected, 1e-3 * expected) << type->name();
    }
  }
}

TEST(GridCoderTest, EachKindOfFeedbackHelps) {
  const Linear linear(64, 256, 64);
  ThreadPool pool(1);
  for (const GgmlType* type : GridTypes()) {
    const double two = CodeOnGrids(linear.TwoSided(), *type, pool).distortion;
    const double one = linear.Distortion(Decode(CodeOnGrids(linear.OneSided(), *type, pool)));
    const double nearest = linear.Distortion(Decode(CodeNearest(linear.TwoSided(), *type, pool)));
    EXPECT_LT(two, 0.95 * one) << type->name();
    EXPECT_LT(one, 0.8 * nearest) << type->name();
  }
}

TEST(GridCoderTest, NumberOfThreadsChangesNothing) {
  const Linear linear(130, 256, 130);
  ThreadPool one(1), four(4);
  for (const GgmlType* type : GridTypes()) {
    for (const GridInput& input : {linear.TwoSided(), linear.OneSided()}) {
      const GridMatrix a = CodeOnGrids(input, *type, one), b = CodeOnGrids(input, *type, four);
      EXPECT_EQ(a.fields, b.fields);
      EXPECT_EQ(a.codes, b.codes);
      EXPECT_EQ(a.distortion, b.distortion);
    }
  }
}

TEST(GridCoderTest, NearestCodesAreNearest) {
  const Linear linear(3, 256, 3);
  ThreadPool pool(1);
  for (const GgmlType* type : GridTypes()) {
    const GridMatrix m = CodeNearest(linear.TwoSided(), *type, pool);
    ExpectSound(m);
    const std::vector<float> decoded = Decode(m);
    for (int64_t i = 0; i < m.rows * m.columns; ++i) {
      const int64_t grid = i / type->sub();
      const float error = std::abs(decoded[i] - linear.w[i]);
      for (const float level : type->levels()) {
        const float value = m.step[grid] * level + (m.offset.empty() ? 0 : m.offset[grid]);
        ASSERT_LE(error, std::abs(value - linear.w[i]) + 1e-7f) << type->name();
      }
    }
  }
}

TEST(GridCoderTest, HostileMatrices) {
  Linear linear(6, 256, 6);
  Draws draws(3);
  const auto hostile = [&](int64_t r, int64_t c, float value) {
    switch (r) {
      case 0:
        return 0.0f;  // a row of zeros
      case 1:
        return 1e30f * value;
      case 2:
        return 1e-30f * value;
      case 3:
        return c % 64 == 0 ? 3e38f : value;
      case 4:
        return c < 128 ? 1e-40f : 1000.0f + value;
      default:
        return c % 3 == 0 ? 0.0f : value;
    }
  };
  for (int64_t r = 0; r < linear.rows; ++r) {
    for (int64_t c = 0; c < linear.columns; ++c) {
      linear.w[r * linear.columns + c] = hostile(r, c, draws.Normal());
    }
  }
  ThreadPool pool(1);
  for (const GgmlType* type : GridTypes()) {
    const GridMatrix m = CodeNearest(linear.TwoSided(), *type, pool);
    ExpectSound(m);
    EXPECT_TRUE(std::isfinite(m.distortion)) << type->name();
    const std::vector<float> decoded = Decode(m);
    EXPECT_TRUE(std::all_of(decoded.begin(), decoded.begin() + 256, [](float v) { return v == 0; }))
        << type->name();
    ExpectSound(CodeOnGrids(linear.TwoSided(), *type, pool, 2));
  }
}

TEST(GridCoderTest, RefitsNeverMakeItWorse) {
  const Linear linear(48, 256, 48);
  ThreadPool pool(1);
  int better = 0;
  for (const GgmlType* type : GridTypes()) {
    const double none = CodeOnGrids(linear.TwoSided(), *type, pool, 0).distortion;
    const double two = CodeOnGrids(linear.TwoSided(), *type, pool, 2).distortion;
    EXPECT_LE(two, none) << type->name();
    if (two < none) ++better;
  }
  EXPECT_GE(better, 5);
}

// The whole range of each sub-block on all levels, as plain quantisers have it; scales in real
// numbers, which no file can hold.
double RangeRuleError(const Linear& linear, const WeightType& type) {
  double sum = 0;
  for (int64_t first = 0; first < linear.rows * linear.columns; first += type.sub()) {
    const auto [low, high] = std::minmax_element(&linear.w[first], &linear.w[first] + type.sub());
    const float top = type.levels().back();
    const float step = type.has_offset() ? (*high - *low) / top : std::max(-*low, *high) / top;
    const float offset = type.has_offset() ? *low : 0;
    for (int64_t i = first; i < first + type.sub(); ++i) {
      double nearest = INFINITY;
      for (const float level : type.levels()) {
        nearest =
            std::min(nearest, std::abs(static_cast<double>(step) * level + offset - linear.w[i]));
      }
      sum += nearest * nearest;
    }
  }
  return sum;
}

TEST(GridCoderTest, TheSearchBeatsTheRangeRule) {
  const Linear linear(16, 256, 16);
  ThreadPool pool(1);
  for (const GgmlType* type : GridTypes()) {
    if (type->name() == "mxfp4") continue;  // whose steps are powers of two
    const double error = CodeNearest(linear.TwoSided(), *type, pool).distortion;
    EXPECT_LT(error, 0.95 * RangeRuleError(linear, *type)) << type->name();
  }
}

TEST(GridCoderTest, WeightsOfZeroCountTheSame) {
  const Linear linear(4, 256, 4);
  ThreadPool pool(1);
  std::vector<float> zeros(linear.columns), same(linear.columns, 3.0f);
  for (const GgmlType* type : GridTypes()) {
    GridInput input{.w = linear.w.data(), .rows = linear.rows, .columns = linear.columns};
    const GridMatrix plain = CodeOnGrids(input, *type, pool, 0);
    input.column_weight = zeros;
    const GridMatrix none = CodeOnGrids(input, *type, pool, 0);
    EXPECT_EQ(none.fields, plain.fields) << type->name();
    EXPECT_EQ(none.codes, plain.codes) << type->name();
    EXPECT_EQ(none.distortion, 0);
  }
}

TEST(GridCoderTest, ColumnsThatCountMoreAreNearer) {
  const Linear linear(16, 256, 16);
  ThreadPool pool(1);
  std::vector<float> weight(linear.columns, 1.0f);
  for (int64_t c = 0; c < linear.columns; c += 8) weight[c] = 100;
  for (const GgmlType* type : GridTypes()) {
    GridInput input{.w = linear.w.data(), .rows = linear.rows, .columns = linear.columns};
    const auto error = [&](const GridMatrix& m) {
      const std::vector<float> decoded = Decode(m);
      double sum = 0;
      for (int64_t i = 0; i < linear.rows * linear.columns; ++i) {
        const double difference = static_cast<double>(decoded[i]) - linear.w[i];
        sum += weight[i % linear.columns] * difference * difference;
      }
      return sum;
    };
    const double plain = error(CodeOnGrids(input, *type, pool, 0));
    input.column_weight = weight;
    const GridMatrix m = CodeOnGrids(input, *type, pool, 0);
    EXPECT_LT(error(m), plain) << type->name();
    EXPECT_NEAR(m.distortion, error(m), 1e-4 * m.distortion);
  }
}

}  // namespace
}  // namespace cvxq
