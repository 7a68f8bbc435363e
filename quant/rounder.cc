#include "quant/rounder.h"

#include <algorithm>

#include "quant/affine.h"
#include "quant/scaled_codes.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

float NearestHalf(float value) {
  constexpr float kMost = 65504;
  return F16ToFloat(FloatToF16(std::clamp(value, -kMost, kMost)));
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
