// Factors and the trellis on the GPU against the CPU's, and the Rounder that codecs use.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "quant/affine.h"
#include "quant/rounder.h"
#include "quant/trellis_search.h"
#include "tests/cuda/quant_problems.h"

namespace cvxq {
namespace {

// --- factors ---

TEST_F(CudaQuantTest, FactorsAreTheCpus) {
  for (const int64_t n : {1, 3, 40, 130}) {
    const std::vector<float> h = CorrelatedMoments(n, 3 * n, n);
    const StatusOr<CurvatureFactor> cpu = FactorCurvature(h, n, 0.01);
    const Tensor sent = Send(DType::kF32, {n, n}, h.data());
    const std::unique_ptr<DeviceRounder> rounder = MakeDeviceRounder(*Gpu());
    const StatusOr<DeviceFactor> gpu = rounder->Factor(sent, cpu->order, 0.01);
    ASSERT_TRUE(gpu.ok()) << gpu.status();
    EXPECT_EQ(gpu->damping, cpu->damping);
    std::vector<float> lower(n * n), diagonal(n);
    Gpu()->Download(gpu->lower, lower.data());
    Gpu()->Download(gpu->diagonal, diagonal.data());
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(diagonal[i], cpu->diagonal[i], 1e-3 * cpu->diagonal[i]);
      EXPECT_EQ(rounder->Diagonal(sent)[i], h[i * n + i]);
      for (int64_t j = 0; j < n; ++j) {
        EXPECT_NEAR(lower[i * n + j], cpu->lower[i * n + j], j < i ? 1e-3 : 0.0);
      }
    }
  }
}

TEST_F(CudaQuantTest, DampingGrowsUntilItCanBeFactored) {
  constexpr int64_t kN = 20;
  std::vector<float> h(kN * kN, 1.0f), zero(kN * kN);
  for (int64_t i = 0; i < kN; ++i) h[i * kN + i] = 0.95f;  // indefinite
  std::vector<int32_t> order(kN);
  std::iota(order.begin(), order.end(), 0);
  const std::unique_ptr<DeviceRounder> rounder = MakeDeviceRounder(*Gpu());
  const auto gpu = rounder->Factor(Send(DType::kF32, {kN, kN}, h.data()), order, 0.001);
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  EXPECT_EQ(gpu->damping, FactorInOrder(h, order, 0.001)->damping);
  EXPECT_GT(gpu->damping, 0.01);

  const auto of_zero = rounder->Factor(Send(DType::kF32, {kN, kN}, zero.data()), order, 0.01);
  ASSERT_TRUE(of_zero.ok()) << of_zero.status();
  std::vector<float> diagonal(kN);
  Gpu()->Download(of_zero->diagonal, diagonal.data());
  EXPECT_EQ(diagonal, std::vector<float>(kN, 1.0f));

  h[3 * kN + 3] = NAN;
  EXPECT_EQ(rounder->Factor(Send(DType::kF32, {kN, kN}, h.data()), order, 0.01).status().code(),
            absl::StatusCode::kDataLoss);
}

// --- trellis ---

struct Trellis8 {
  std::vector<float> row_step, column_step, row_weight, column_weight, row_curvature;
  std::vector<int32_t> row_class, column_class;
  TrellisPrices prices;
};

Trellis8 MakeTrellis(const Problem& p, float delta, float price) {
  Trellis8 t;
  Draws draws(3);
  t.row_curvature.resize(p.rows);
  t.row_class.resize(p.rows);
  t.row_step.resize(p.rows);
  t.column_step.resize(p.columns);
  t.column_class.resize(p.columns);
  for (size_t b = 0; b < p.blocks.size(); ++b) {
    for (size_t i = 0; i < p.blocks[b].rows.size(); ++i) {
      t.row_curvature[p.blocks[b].rows[i]] = p.diagonal[b][i];
    }
  }
  for (int64_t r = 0; r < p.rows; ++r) {
    t.row_step[r] = delta / std::sqrt(t.row_curvature[r]);
    t.row_class[r] = static_cast<int32_t>(draws.Below(5));
  }
  for (int64_t c = 0; c < p.columns; ++c) {
    const int32_t column = p.inputs.order[c];
    t.column_step[column] = 1 / std::sqrt(p.inputs.diagonal[c]);
    t.column_class[column] = static_cast<int32_t>(draws.Below(4)) - 2;
  }
  for (int i = 0; i < p.rows; ++i) t.row_weight.push_back(draws.Uniform(0.8f, 1.2f));
  for (int i = 0; i < p.columns; ++i) t.column_weight.push_back(draws.Uniform(0.8f, 1.2f));
  for (int i = 0; i < 3 * 2 * kPricedMagnitudes; ++i) {
    t.prices.price.push_back(price * static_cast<float>(i % kPricedMagnitudes) +
                             draws.Uniform(0, price));
  }
  return t;
}

int ClassOf(const Trellis8& t, int64_t row, int64_t column) {
  return std::clamp(t.row_class[row] + t.column_class[column], 0, t.prices.classes() - 1);
}

Rounded RoundTrellisOnCpu(const Problem& p, const Trellis8& t, double& squares) {
  Rounded result{std::vector<uint16_t>(p.rows * p.columns), std::vector<float>(p.rows * p.columns)};
  std::vector<int> state(p.blocks.size() * p.columns);
  ThreadPool pool(1);
  squares = 0;
  RoundWithFeedback(p.Input(), pool, [&](const ColumnTile& tile, float* target, float* rounded) {
    std::vector<TrellisRow> rows(tile.rows);
    std::vector<int16_t> integers(tile.rows);
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int32_t r = tile.row[i];
      rows[i] = {.step = t.row_step[r] * t.column_step[tile.column],
                 .weight = t.row_weight[r] * t.column_weight[tile.column],
                 .price = t.prices.Of(ClassOf(t, r, tile.column))};
    }
    TrellisSearch().Round(tile, rows.data(), state[tile.block * p.columns + tile.column], target,
                          rounded, integers.data());
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t at = tile.row[i] * p.columns + tile.column;
      result.codes[at] = static_cast<uint16_t>(integers[i]);
      result.values[at] = rounded[i];
      squares += t.row_curvature[tile.row[i]] * std::pow(rounded[i] - target[i], 2.0);
    }
  });
  return result;
}

// What the integers stand for, whoever chose them.
std::vector<float> DecodeTrellis(const Problem& p, const Trellis8& t,
                                 const std::vector<uint16_t>& codes) {
  std::vector<float> values(codes.size());
  for (const RowBlock& block : p.blocks) {
    for (int64_t c = 0; c < p.columns; ++c) {
      int state = 0;
      for (int64_t i = std::ssize(block.rows) - 1; i >= 0; --i) {
        const int32_t r = block.rows[i];
        const int k = static_cast<int16_t>(codes[r * p.columns + c]);
        values[r * p.columns + c] =
            static_cast<float>(kTrellis.Code(state, k)) * (t.row_step[r] * t.column_step[c]);
        state = kTrellis.Next(state, k);
      }
    }
  }
  return values;
}

TEST_F(CudaQuantTest, TrellisIsSearchedAsOnTheCpu) {
  int i = 0;
  for (const Problem& p : Problems()) {
    SCOPED_TRACE(i++);
    for (const float price : {0.0f, 0.05f}) {
      const Trellis8 t = MakeTrellis(p, price > 0 ? 0.5f : 0.05f, price);
      const Tensor squares = Gpu()->Allocate(DType::kF32, {p.columns});
      Rounded gpu;
      gpu.codes = RoundOnGpu(p, DeviceTrellis{.row_step = Send(t.row_step),
                                              .row_weight = Send(t.row_weight),
                                              .column_step = Send(t.column_step),
                                              .column_weight = Send(t.column_weight),
                                              .row_class = Send(t.row_class),
                                              .column_class = Send(t.column_class),
                                              .price = Send(DType::kF32, {3, 2, kPricedMagnitudes},
                                                            t.prices.price.data()),
                                              .row_curvature = Send(t.row_curvature),
                                              .squares = squares});
      gpu.values = DecodeTrellis(p, t, gpu.codes);
      double expected;
      ExpectAlike(p, gpu, RoundTrellisOnCpu(p, t, expected));
      std::vector<float> sums(p.columns);
      Gpu()->Download(squares, sums.data());
      EXPECT_NEAR(std::accumulate(sums.begin(), sums.end(), 0.0), expected, 0.005 * expected);
    }
  }
}

// --- the Rounder of the GPU, as codecs use it ---

TEST_F(CudaQuantTest, RounderCodesEntropyAndGrids) {
  const Problem p = MakeProblem(45, true, {{70, true}, {20, true}}, 64);
  ThreadPool pool(1);
  const std::unique_ptr<Rounder> cpu = MakeCpuRounder(pool), gpu = MakeRounder(*Gpu(), pool);
  const Trellis8 t = MakeTrellis(p, 0.3f, 0.02f);
  std::vector<float> column_curvature(p.columns);
  for (int64_t c = 0; c < p.columns; ++c) {
    column_curvature[p.inputs.order[c]] = p.inputs.diagonal[c];
  }
  const std::vector<int8_t> row_class(t.row_class.begin(), t.row_class.end());
  const std::vector<int8_t> column_class(t.column_class.begin(), t.column_class.end());
  const TrellisRule rule = {.row_step = t.row_step,
                            .column_step = t.column_step,
                            .row_weight = t.row_weight,
                            .column_weight = t.column_weight,
                            .row_class = row_class,
                            .column_class = column_class,
                            .prices = &t.prices,
                            .row_curvature = t.row_curvature,
                            .column_curvature = column_curvature};
  std::vector<int16_t> of_cpu(p.w.size()), of_gpu(p.w.size());
  const double expected = *cpu->RoundToTrellis(p.Input(), rule, of_cpu);
  EXPECT_NEAR(*gpu->RoundToTrellis(p.Input(), rule, of_gpu), expected, 0.005 * expected);
  EXPECT_NE(of_cpu, std::vector<int16_t>(p.w.size()));
  int64_t same = 0;
  for (size_t i = 0; i < of_cpu.size(); ++i) same += of_cpu[i] == of_gpu[i];
  EXPECT_GE(same, 0.98 * static_cast<double>(of_cpu.size()));

  AffineMatrix m = StartAffineMatrix(p.rows, p.columns, 3, 16);
  m.kept_columns = {2, 30};
  m.kept.resize(2 * p.rows);
  FitGrids(p.w.data(), 0.9f, {}, pool, m);
  AffineMatrix of_gpu_grids = m;
  ASSERT_TRUE(cpu->RoundToGrids(p.Input(), m).ok());
  ASSERT_TRUE(gpu->RoundToGrids(p.Input(), of_gpu_grids).ok());
  same = 0;
  for (size_t i = 0; i < m.codes.size(); ++i) same += m.codes[i] == of_gpu_grids.codes[i];
  EXPECT_GE(same, 0.98 * static_cast<double>(m.codes.size()));
  EXPECT_EQ(of_gpu_grids.codes[2], 0);  // in a kept column
  for (size_t i = 0; i < m.kept.size(); ++i) EXPECT_NEAR(m.kept[i], of_gpu_grids.kept[i], 0.05);
}

TEST_F(CudaQuantTest, RounderFactorsInTheOrderOfWork) {
  constexpr int64_t kN = 40;
  const std::vector<float> h = CorrelatedMoments(kN, 3 * kN, 2);
  ThreadPool pool(1);
  const std::unique_ptr<Rounder> gpu = MakeRounder(*Gpu(), pool);
  for (const WorkOrder order :
       {WorkOrder::kLeastFirst, WorkOrder::kLargestFirst, WorkOrder::kFirstFirst}) {
    const CurvatureFactor factor = *gpu->FactorCurvature(h, kN, 0.01, order);
    const CurvatureFactor expected = *FactorCurvature(h, kN, 0.01, order);
    EXPECT_EQ(factor.n, kN);
    EXPECT_EQ(factor.order, expected.order);
    EXPECT_EQ(factor.damping, expected.damping);
    for (int64_t i = 0; i < kN * kN; ++i) EXPECT_NEAR(factor.lower[i], expected.lower[i], 1e-3);
    for (int64_t i = 0; i < kN; ++i) {
      EXPECT_NEAR(factor.diagonal[i], expected.diagonal[i], 1e-3 * expected.diagonal[i]);
    }
  }
}

TEST_F(CudaQuantTest, SameCodesFromRunToRun) {
  const Problem p = MakeProblem(45, true, {{70, true}, {20, false}}, 64);
  const Trellis8 t = MakeTrellis(p, 0.3f, 0.02f);
  const DeviceTrellis rule{
      .row_step = Send(t.row_step),
      .row_weight = Send(t.row_weight),
      .column_step = Send(t.column_step),
      .column_weight = Send(t.column_weight),
      .row_class = Send(t.row_class),
      .column_class = Send(t.column_class),
      .price = Send(DType::kF32, {3, 2, kPricedMagnitudes}, t.prices.price.data()),
      .row_curvature = Send(t.row_curvature),
      .squares = Gpu()->Allocate(DType::kF32, {p.columns})};
  EXPECT_EQ(RoundOnGpu(p, rule), RoundOnGpu(p, rule));
}

}  // namespace
}  // namespace cvxq
