// Rounding to levels with error feedback on the GPU against the CPU's: grids, tables, and tables
// whose scales are fitted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "quant/affine.h"
#include "quant/round_group.h"
#include "quant/scale_grid.h"
#include "quant/tables.h"
#include "tests/cuda/quant_problems.h"

namespace cvxq {
namespace {

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

}  // namespace
}  // namespace cvxq
