#include "quant/rounder.h"

#include <algorithm>

#include "quant/affine.h"
#include "quant/round_group.h"
#include "quant/scale_grid.h"
#include "quant/scaled_codes.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

float NearestHalf(float value) {
  constexpr float kMost = 65504;
  return F16ToFloat(FloatToF16(std::clamp(value, -kMost, kMost)));
}

int64_t TilesIn(const RowBlock& block, int64_t tile_rows) {
  return (static_cast<int64_t>(block.rows.size()) + tile_rows - 1) / tile_rows;
}

class CpuRounder : public Rounder {
 public:
  explicit CpuRounder(ThreadPool& pool) : pool_(pool) {}

  StatusOr<CurvatureFactor> FactorInOrder(std::vector<float> h, std::vector<int32_t> order,
                                          double damping) override {
    return cvxq::FactorInOrder(h, std::move(order), damping);
  }

  StatusOr<double> RoundToTrellis(const FeedbackInput& feedback, const TrellisRule& rule,
                                  std::span<int16_t> integers) override {
    const int64_t n = feedback.columns;
    // Of each block and column; its tiles come one after another.
    std::vector<uint8_t> state(feedback.blocks.size() * n, 0);
    std::vector<double> distortion(feedback.blocks.size() * n, 0.0);
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      std::vector<TrellisRow> rows(tile.rows);
      std::vector<int16_t> of_tile(tile.rows);
      for (int64_t i = 0; i < tile.rows; ++i) {
        const int32_t r = tile.row[i];
        rows[i] = {.step = rule.row_step[r] * rule.column_step[tile.column],
                   .weight = rule.row_weight[r] * rule.column_weight[tile.column],
                   .price = rule.prices->Of(
                       std::min(SymbolClass(rule.row_class[r], rule.column_class[tile.column]),
                                rule.prices->classes() - 1))};
      }
      int s = state[tile.block * n + tile.column];
      TrellisSearch search;
      search.Round(tile, rows.data(), s, target, rounded, of_tile.data());
      state[tile.block * n + tile.column] = static_cast<uint8_t>(s);
      double sum = 0;
      for (int64_t i = 0; i < tile.rows; ++i) {
        const int32_t r = tile.row[i];
        const double error = static_cast<double>(rounded[i]) - target[i];
        sum += static_cast<double>(rule.row_curvature[r]) * error * error;
        integers[r * n + tile.column] = of_tile[i];
      }
      distortion[tile.block * n + tile.column] += 0.5 * sum * rule.column_curvature[tile.column];
    });
    double sum = 0;
    for (const double part : distortion) sum += part;
    return sum;
  }

  Status RoundToLevels(const FeedbackInput& feedback, const LevelRule& rule,
                       std::span<uint8_t> codes) override {
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      RoundRows(tile, target, rounded, [&](int64_t place, float t) {
        const int64_t row = tile.row[place];
        const int64_t group = rule.cluster[tile.column] * feedback.rows + row;
        uint8_t& code = codes[row * feedback.columns + tile.column];
        code = 0;
        const int depth = rule.depth[group];
        if (depth == 0) return 0.0f;
        const float scale = rule.scale[group];
        code = rule.tables->Encode(depth, t / scale);
        return scale * rule.tables->table[depth][code];
      });
    });
    return absl::OkStatus();
  }

  Status RoundToFittedLevels(const FeedbackInput& feedback, const FittedLevelRule& rule,
                             std::span<uint8_t> codes) override {
    std::vector<int64_t> first_tile = {0};  // of each block
    for (const RowBlock& block : feedback.blocks) {
      first_tile.push_back(first_tile.back() + TilesIn(block, feedback.tile_rows));
    }
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      const int64_t row_tile = first_tile[tile.block] + tile.first / feedback.tile_rows;
      const int64_t group = row_tile * feedback.columns + tile.column;
      std::vector<uint8_t> of_tile(tile.rows);
      RoundGroupOfTile(tile, rule, group, target, rounded, of_tile.data());
      for (int64_t i = 0; i < tile.rows; ++i) {
        codes[tile.row[i] * feedback.columns + tile.column] = of_tile[i];
      }
    });
    return absl::OkStatus();
  }

  Status RoundToGrids(const FeedbackInput& feedback, AffineMatrix& m) override {
    const auto kept = static_cast<int64_t>(m.kept_columns.size());
    std::vector<int64_t> kept_index(m.columns, -1);
    for (int64_t k = 0; k < kept; ++k) kept_index[m.kept_columns[k]] = k;
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      const int64_t k = kept_index[tile.column];
      if (k < 0) return RoundColumnToGrid(tile, m, target, rounded);
      RoundRows(tile, target, rounded, [&](int64_t place, float t) {
        return m.kept[tile.row[place] * kept + k] = NearestHalf(t);
      });
    });
    return absl::OkStatus();
  }

 private:
  // codes[tile.rows] are 0 before.
  static void RoundGroupOfTile(const ColumnTile& tile, const FittedLevelRule& rule, int64_t group,
                               float* target, float* rounded, uint8_t* codes) {
    const float rms = RootMeanSquare(target, tile.rows);
    if (!(rms > 0)) rule.depth[group] = 0;
    const int depth = rule.depth[group];
    if (depth == 0) {
      RoundRows(tile, target, rounded, [](int64_t, float) { return 0.0f; });
      return;
    }
    const int index =
        FitScale(*rule.tables, depth, rule.scale_steps, rms, rule.reach, target, tile.rows, codes);
    const float scale = ScaleFromIndex(index, rule.scale_steps);
    rule.scale[group] = scale;
    const float* table = rule.tables->table[depth].data();
    RoundRows(tile, target, rounded, [&](int64_t r, float t) {
      // Without feedback between rows the fit has already rounded what is rounded here.
      if (tile.lower != nullptr) codes[r] = rule.tables->Encode(depth, t / scale);
      return scale * table[codes[r]];
    });
  }

  ThreadPool& pool_;
};

}  // namespace

StatusOr<CurvatureFactor> Rounder::FactorCurvature(std::vector<float> h, int64_t n, double damping,
                                                   WorkOrder order) {
  std::vector<float> diagonal(n);
  for (int64_t i = 0; i < n; ++i) diagonal[i] = h[i * n + i];
  return FactorInOrder(std::move(h), WorkPlaces(diagonal, order), damping);
}

void RoundColumnToGrid(const ColumnTile& tile, AffineMatrix& m, float* target, float* rounded) {
  const int64_t groups = m.group_count(), g = tile.column / m.group;
  RoundRows(tile, target, rounded, [&](int64_t place, float t) {
    const int64_t row = tile.row[place];
    const AffineGrid grid = GridAt(m, row * groups + g);
    const int code = grid.Code(t, m.bits);
    m.codes[row * m.columns + tile.column] = static_cast<uint8_t>(code);
    return grid.Value(code);
  });
}

std::unique_ptr<Rounder> MakeCpuRounder(ThreadPool& pool) {
  return std::make_unique<CpuRounder>(pool);
}

}  // namespace cvxq
