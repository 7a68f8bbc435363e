// Rounding with error feedback on the GPU against the CPU's.
//
// Both take the same decisions but where two are all but equally good; one such decision changes
// all that follow. So the distortion is compared, and how many codes are the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/device_rounder.h"
#include "quant/affine.h"
#include "quant/curvature.h"
#include "quant/feedback.h"
#include "quant/round_group.h"
#include "quant/rounder.h"
#include "quant/scale_grid.h"
#include "quant/tables.h"
#include "quant/trellis_search.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

Backend* Gpu() {
  static StatusOr<std::unique_ptr<Backend>>* const backend =
      new StatusOr<std::unique_ptr<Backend>>(MakeCudaBackend());
  return backend->ok() ? backend->value().get() : nullptr;
}

// W with the factors of its curvature.
struct Problem {
  int64_t rows, columns;
  std::vector<float> w;
  bool feeds_columns;
  CurvatureFactor inputs;
  std::vector<RowBlock> blocks;
  std::vector<std::vector<float>> diagonal;  // D_O of each block, by places
  int64_t tile_rows;

  FeedbackInput Input() const {
    return {.w = w.data(),
            .rows = rows,
            .columns = columns,
            .inputs = feeds_columns ? &inputs : nullptr,
            .blocks = blocks,
            .tile_rows = tile_rows};
  }
};

struct BlockShape {
  int64_t rows;
  bool feeds;
};

Problem MakeProblem(int64_t columns, bool feeds_columns, std::vector<BlockShape> shapes,
                    int64_t tile_rows) {
  Problem p{.columns = columns, .feeds_columns = feeds_columns, .tile_rows = tile_rows};
  p.inputs = *FactorCurvature(CorrelatedMoments(columns, 3 * columns, columns), columns, 0.01);
  p.rows = 0;
  for (const BlockShape& shape : shapes) {
    RowBlock& block = p.blocks.emplace_back();
    block.rows.resize(shape.rows);
    std::iota(block.rows.rbegin(), block.rows.rend(), static_cast<int32_t>(p.rows));
    std::vector<float>& diagonal = p.diagonal.emplace_back(shape.rows, 1.0f);
    if (shape.feeds) {
      std::vector<int32_t> order(shape.rows);
      std::iota(order.begin(), order.end(), 0);
      CurvatureFactor factor =
          *FactorInOrder(CorrelatedMoments(shape.rows, 3 * shape.rows, 7), order, 0.05);
      block.lower = std::move(factor.lower);
      diagonal = std::move(factor.diagonal);
    }
    p.rows += shape.rows;
  }
  p.w = Draws(p.rows * columns).Normals(p.rows * columns);
  return p;
}

// sum D_O D_I (L_O^T E L_I)^2 of E = value - W.
double Distortion(const Problem& p, const std::vector<float>& value) {
  const int64_t n = p.columns;
  double sum = 0;
  for (size_t b = 0; b < p.blocks.size(); ++b) {
    const RowBlock& block = p.blocks[b];
    const int64_t m = static_cast<int64_t>(block.rows.size());
    std::vector<double> error(m * n), right(m * n);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const int64_t at = block.rows[r] * n + p.inputs.order[c];
        error[r * n + c] = static_cast<double>(value[at]) - p.w[at];
      }
      for (int64_t c = 0; c < n; ++c) {
        for (int64_t j = c; j < n; ++j) {
          right[r * n + c] += error[r * n + j] * p.inputs.lower[j * n + c];
        }
      }
    }
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        double t = right[r * n + c];
        for (int64_t i = r + 1; i < m && !block.lower.empty(); ++i) {
          t += block.lower[i * m + r] * right[i * n + c];
        }
        sum += p.diagonal[b][r] * p.inputs.diagonal[c] * t * t;
      }
    }
  }
  return sum;
}

// What goes to the GPU.
Tensor Send(DType dtype, Shape shape, const void* data) {
  Tensor tensor = Gpu()->Allocate(dtype, std::move(shape));
  Gpu()->Upload(data, tensor);
  return tensor;
}
Tensor Send(const std::vector<float>& data) {
  return Send(DType::kF32, {std::ssize(data)}, data.data());
}
Tensor Send(const std::vector<int32_t>& data) {
  return Send(DType::kI32, {std::ssize(data)}, data.data());
}

DeviceFeedback Send(const Problem& p) {
  DeviceFeedback f;
  f.w = Send(DType::kF32, {p.rows, p.columns}, p.w.data());
  if (p.feeds_columns) {
    f.lower = Send(DType::kF32, {p.columns, p.columns}, p.inputs.lower.data());
    f.order = p.inputs.order;
  }
  for (const RowBlock& block : p.blocks) {
    DeviceFeedback::Block& sent = f.blocks.emplace_back();
    sent.rows = block.rows;
    const int64_t n = static_cast<int64_t>(block.rows.size());
    if (!block.lower.empty()) sent.lower = Send(DType::kF32, {n, n}, block.lower.data());
  }
  f.tile_rows = p.tile_rows;
  return f;
}

template <typename Rule>
std::vector<uint16_t> RoundOnGpu(const Problem& p, const Rule& rule) {
  const Tensor codes = Gpu()->Allocate(DType::kU16, {p.rows, p.columns});
  MakeDeviceRounder(*Gpu())->Round(Send(p), rule, codes);
  std::vector<uint16_t> result(p.rows * p.columns);
  Gpu()->Download(codes, result.data());
  EXPECT_TRUE(Gpu()->Synchronize().ok()) << Gpu()->Synchronize();
  return result;
}

struct Rounded {
  std::vector<uint16_t> codes;
  std::vector<float> values;
};

void ExpectAlike(const Problem& p, const Rounded& gpu, const Rounded& cpu) {
  int64_t same = 0;
  for (size_t i = 0; i < gpu.codes.size(); ++i) same += gpu.codes[i] == cpu.codes[i];
  EXPECT_GE(static_cast<double>(same), 0.98 * static_cast<double>(gpu.codes.size()));
  const double of_cpu = Distortion(p, cpu.values);
  EXPECT_NEAR(Distortion(p, gpu.values), of_cpu, 0.005 * of_cpu);
}

class CudaQuantTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Gpu() == nullptr) GTEST_SKIP() << MakeCudaBackend().status().message();
  }
};

std::vector<Problem> Problems() {
  std::vector<Problem> problems;
  problems.push_back(MakeProblem(45, true, {{150, true}}, 64));   // three by two tiles
  problems.push_back(MakeProblem(33, true, {{140, true}}, 128));  // all parts of a tile
  problems.push_back(MakeProblem(140, true, {{40, false}, {37, false}, {3, false}}, 40));
  problems.push_back(MakeProblem(40, true, {{30, true}, {20, false}, {70, true}}, 64));
  problems.push_back(MakeProblem(35, false, {{66, true}}, 32));  // between rows alone
  problems.push_back(MakeProblem(70, true, {{1, true}}, 64));
  problems.push_back(MakeProblem(1, true, {{70, true}}, 64));
  problems.push_back(MakeProblem(9, true, {{256, false}, {44, false}}, 256));
  return problems;
}

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

// --- levels ---

TEST_F(CudaQuantTest, GridsRoundAsOnTheCpu) {
  int i = 0;
  for (const Problem& p : Problems()) {
    SCOPED_TRACE(i++);
    constexpr int kBits = 3;
    constexpr int64_t kGroup = 13;
    AffineMatrix m = StartAffineMatrix(p.rows, p.columns, kBits, kGroup);
    ThreadPool pool(1);
    FitGrids(p.w.data(), 0.9f, {}, pool, m);
    m.scale[0] = 0;
    std::vector<uint8_t> kept(p.columns);
    kept[p.columns / 2] = 1;
    const auto value = [&](int64_t row, int64_t column, uint16_t code) {
      if (kept[column] != 0) return F16ToFloat(code);
      return GridAt(m, row * m.group_count() + column / kGroup).Value(code);
    };
    Rounded cpu, gpu;
    cpu.codes.resize(p.w.size());
    cpu.values.resize(p.w.size());
    RoundWithFeedback(p.Input(), pool, [&](const ColumnTile& tile, float* target, float* rounded) {
      RoundRows(tile, target, rounded, [&](int64_t place, float t) {
        const int64_t row = tile.row[place], at = row * p.columns + tile.column;
        cpu.codes[at] =
            kept[tile.column] != 0
                ? FloatToF16(t)
                : GridAt(m, row * m.group_count() + tile.column / kGroup).Code(t, kBits);
        return cpu.values[at] = value(row, tile.column, cpu.codes[at]);
      });
    });
    gpu.codes = RoundOnGpu(
        p, DeviceGrid{.scale = Send(DType::kF32, {p.rows, m.group_count()}, m.scale.data()),
                      .zero = Send(DType::kU8, {p.rows, m.group_count()}, m.zero.data()),
                      .group = kGroup,
                      .bits = kBits,
                      .kept = Send(DType::kU8, {p.columns}, kept.data())});
    for (int64_t at = 0; at < p.rows * p.columns; ++at) {
      gpu.values.push_back(value(at / p.columns, at % p.columns, gpu.codes[at]));
    }
    ExpectAlike(p, gpu, cpu);
  }
}

// Levels and boundaries as DeviceTable has them.
std::pair<std::vector<float>, std::vector<float>> Flat(const LevelTables& tables) {
  std::vector<float> table(DeviceTable::kDepths * DeviceTable::kLevels), boundary(table.size());
  for (int depth = 1; depth < DeviceTable::kDepths; ++depth) {
    const int64_t at = depth * DeviceTable::kLevels;
    std::copy(tables.table[depth].begin(), tables.table[depth].end(), &table[at]);
    std::copy(tables.boundary[depth].begin(), tables.boundary[depth].end(), &boundary[at]);
  }
  return {table, boundary};
}

TEST_F(CudaQuantTest, TablesRoundAsOnTheCpu) {
  const LevelTables tables = LloydMaxTables(2.0);
  const auto [table, boundary] = Flat(tables);
  int i = 0;
  for (const Problem& p : Problems()) {
    SCOPED_TRACE(i++);
    constexpr int64_t kClusters = 3;
    Draws draws(9);
    std::vector<uint8_t> depth;
    std::vector<float> scale;
    std::vector<int32_t> cluster;
    for (int64_t g = 0; g < kClusters * p.rows; ++g) {
      depth.push_back(static_cast<uint8_t>(draws.Below(DeviceTable::kDepths)));
      scale.push_back(draws.Uniform(0.7f, 1.3f));
    }
    for (int64_t c = 0; c < p.columns; ++c) {
      cluster.push_back(static_cast<int32_t>(draws.Below(kClusters)));
    }
    const auto value = [&](int64_t row, int64_t column, uint16_t code) {
      const int64_t g = cluster[column] * p.rows + row;
      return depth[g] == 0 ? 0.0f : scale[g] * tables.table[depth[g]][code];
    };
    Rounded cpu, gpu;
    cpu.codes.resize(p.w.size());
    cpu.values.resize(p.w.size());
    ThreadPool pool(1);
    RoundWithFeedback(p.Input(), pool, [&](const ColumnTile& tile, float* target, float* rounded) {
      RoundRows(tile, target, rounded, [&](int64_t place, float t) {
        const int64_t row = tile.row[place], at = row * p.columns + tile.column;
        const int64_t g = cluster[tile.column] * p.rows + row;
        cpu.codes[at] = depth[g] == 0 ? 0 : tables.Encode(depth[g], t / scale[g]);
        return cpu.values[at] = value(row, tile.column, cpu.codes[at]);
      });
    });
    gpu.codes = RoundOnGpu(
        p, DeviceTable{.depth = Send(DType::kU8, {kClusters, p.rows}, depth.data()),
                       .scale = Send(DType::kF32, {kClusters, p.rows}, scale.data()),
                       .cluster = Send(cluster),
                       .table = Send(DType::kF32, {DeviceTable::kDepths, DeviceTable::kLevels},
                                     table.data()),
                       .boundary = Send(DType::kF32, {DeviceTable::kDepths, DeviceTable::kLevels},
                                        boundary.data())});
    for (int64_t at = 0; at < p.rows * p.columns; ++at) {
      gpu.values.push_back(value(at / p.columns, at % p.columns, gpu.codes[at]));
    }
    ExpectAlike(p, gpu, cpu);
  }
}

TEST_F(CudaQuantTest, ScalesAreFittedAsOnTheCpu) {
  constexpr int kSteps = 4, kReach = 2;
  constexpr int kFirst = kMinScaleIndex / (16 / kSteps), kLast = kMaxScaleIndex / (16 / kSteps);
  const LevelTables tables = LloydMaxTables(2.0);
  const auto [table, boundary] = Flat(tables);
  std::vector<float> scales;
  for (int i = kFirst; i <= kLast; ++i) scales.push_back(ScaleFromIndex(i, kSteps));
  for (int i = kFirst; i <= kLast; ++i) scales.push_back(1 / ScaleFromIndex(i, kSteps));
  int i = 0;
  for (Problem& p : Problems()) {
    SCOPED_TRACE(i++);
    p.tile_rows = std::min<int64_t>(p.tile_rows, 100);
    std::vector<int64_t> first_tile = {0};
    for (const RowBlock& block : p.blocks) {
      first_tile.push_back(first_tile.back() +
                           (std::ssize(block.rows) + p.tile_rows - 1) / p.tile_rows);
    }
    const int64_t tiles = first_tile.back();
    Draws draws(11);
    std::vector<uint8_t> depth;
    for (int64_t g = 0; g < tiles * p.columns; ++g) {
      depth.push_back(static_cast<uint8_t>(draws.Below(6)));
    }
    std::vector<int32_t> place(depth.size());
    Rounded cpu, gpu;
    cpu.codes.resize(p.w.size());
    cpu.values.resize(p.w.size());
    gpu.values.resize(p.w.size());
    std::vector<int32_t> cpu_place(depth.size());
    std::vector<int64_t> group_of(p.w.size());
    ThreadPool pool(1);
    RoundWithFeedback(p.Input(), pool, [&](const ColumnTile& tile, float* target, float* rounded) {
      const int64_t g =
          (first_tile[tile.block] + tile.first / p.tile_rows) * p.columns + tile.column;
      double squares = 0;
      for (int64_t r = 0; r < tile.rows; ++r) squares += std::pow(target[r], 2.0);
      std::vector<uint8_t> codes(tile.rows);
      float scale = 0;
      if (depth[g] > 0) {
        const int index =
            FitScale(tables, depth[g], kSteps, static_cast<float>(std::sqrt(squares / tile.rows)),
                     kReach, target, tile.rows, codes.data());
        cpu_place[g] = index - kFirst;
        scale = ScaleFromIndex(index, kSteps);
      }
      RoundRows(tile, target, rounded, [&](int64_t r, float t) {
        const int64_t at = tile.row[r] * p.columns + tile.column;
        group_of[at] = g;
        if (depth[g] > 0) cpu.codes[at] = tables.Encode(depth[g], t / scale);
        return cpu.values[at] = depth[g] == 0 ? 0 : scale * tables.table[depth[g]][cpu.codes[at]];
      });
    });
    const Tensor places = Gpu()->Allocate(DType::kI32, {tiles, p.columns});
    gpu.codes = RoundOnGpu(
        p, DeviceFittedTable{.depth = Send(DType::kU8, {tiles, p.columns}, depth.data()),
                             .place = places,
                             .scales = Send(DType::kF32, {2, kLast - kFirst + 1}, scales.data()),
                             .first = kFirst,
                             .steps = kSteps,
                             .reach = kReach,
                             .table = Send(table),
                             .boundary = Send(boundary)});
    Gpu()->Download(places, place.data());
    int64_t same = 0;
    for (size_t g = 0; g < depth.size(); ++g) same += depth[g] == 0 || place[g] == cpu_place[g];
    EXPECT_GE(static_cast<double>(same), 0.98 * static_cast<double>(depth.size()));
    for (size_t at = 0; at < p.w.size(); ++at) {
      const int64_t g = group_of[at];
      if (depth[g] == 0) continue;
      gpu.values[at] = scales[place[g]] * tables.table[depth[g]][gpu.codes[at]];
    }
    ExpectAlike(p, gpu, cpu);
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
    const CurvatureFactor factor = *gpu->Factor(h, kN, 0.01, order);
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
