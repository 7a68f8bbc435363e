#include "quant/entropy.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <numeric>

#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr int kNoCurvature = 60;  // octaves above delta: a step that leaves zeros

// The grid index of 1 / sqrt(curvature).
int16_t StepIndex(float curvature, int steps) {
  if (!(curvature > 0)) return static_cast<int16_t>(kNoCurvature * steps);
  const double index = std::round(-0.5 * std::log2(static_cast<double>(curvature)) * steps);
  return static_cast<int16_t>(
      std::clamp<double>(index, -kNoCurvature * steps, kNoCurvature * steps));
}

std::vector<float> Scales(const std::vector<int16_t>& index, int steps, float gain) {
  std::vector<float> scale(index.size());
  for (size_t i = 0; i < index.size(); ++i) scale[i] = ScaleFromIndex(index[i], steps) * gain;
  return scale;
}

// D * scale^2: 1 but for the rounding of the scale.
std::vector<float> Weights(std::span<const float> curvature, const std::vector<int16_t>& index,
                           int steps) {
  std::vector<float> weight(curvature.size());
  for (size_t i = 0; i < weight.size(); ++i) {
    const float scale = ScaleFromIndex(index[i], steps);
    weight[i] = curvature[i] > 0 ? curvature[i] * scale * scale : 0;
  }
  return weight;
}

}  // namespace

ScaledCodes StartScaledCodes(const EntropyInput& input) {
  ScaledCodes codes;
  codes.rows = input.rows;
  codes.columns = input.columns;
  if (input.blocks.size() > 1) {
    codes.trellis_rows = static_cast<int64_t>(input.blocks.front().rows.size());
  }
  codes.scale_steps = input.scale_steps;
  codes.gain = static_cast<float>(input.delta);
  for (const float d : input.row_curvature) {
    codes.row_scale.push_back(StepIndex(d, input.scale_steps));
  }
  for (const float d : input.column_curvature) {
    codes.column_scale.push_back(StepIndex(d, input.scale_steps));
  }
  codes.integers.assign(input.rows * input.columns, 0);
  codes.row_class.assign(input.rows, 0);
  codes.column_class.assign(input.columns, 0);
  return codes;
}

void SpreadHistogram::Add(const EntropyInput& input, const ScaledCodes& codes) {
  // A step of k is two of the code grid; delta is taken as 1.
  const std::vector<float> row = Scales(codes.row_scale, codes.scale_steps, 2);
  const std::vector<float> column = Scales(codes.column_scale, codes.scale_steps, 1);
  std::vector<double> of_row(input.rows), of_column(input.columns);
  double all = 0;
  for (int64_t r = 0; r < input.rows; ++r) {
    for (int64_t c = 0; c < input.columns; ++c) {
      const double k = input.w[r * input.columns + c] / (row[r] * column[c]);
      of_row[r] += k * k;
      of_column[c] += k * k;
    }
    all += of_row[r];
  }
  // log2 of the root mean square; rows and columns of zeros take no bits.
  const auto bin = [](double squares, double count) {
    return static_cast<int>(std::round(0.5 * std::log2(squares / count) * kBinsPerOctave));
  };
  const int mean = all > 0 ? bin(all, static_cast<double>(input.rows * input.columns)) : 0;
  std::map<int, double> rows, columns;
  for (const double squares : of_row) {
    if (squares > 0) ++rows[bin(squares, input.columns) - mean];
  }
  for (const double squares : of_column) {
    if (squares > 0) ++columns[bin(squares, input.rows)];
  }
  for (const auto& [of_r, row_count] : rows) {
    for (const auto& [of_c, column_count] : columns) {
      bins_[std::clamp(of_r + of_c + kBins / 2, 0, kBins - 1)] += row_count * column_count;
    }
  }
}

void SpreadHistogram::Merge(const SpreadHistogram& other) {
  for (int i = 0; i < kBins; ++i) bins_[i] += other.bins_[i];
}

double SpreadHistogram::Bits(double log2_delta) const {
  double bits = 0;
  for (int i = 0; i < kBins; ++i) {
    if (bins_[i] == 0) continue;
    const double log2_spread = static_cast<double>(i - kBins / 2) / kBinsPerOctave - log2_delta;
    // 1/2 log2(2 pi e s^2) is the entropy of a finely rounded normal; the one more keeps it
    // positive where steps are coarse.
    bits += bins_[i] * 0.5 *
            std::log2(1 + 2 * std::numbers::pi * std::numbers::e * std::exp2(2 * log2_spread));
  }
  return bits;
}

double SpreadHistogram::weights() const { return std::accumulate(bins_.begin(), bins_.end(), 0.0); }

double AscendDelta(const SpreadHistogram& histogram, double correction, double budget_bits,
                   double log2_delta) {
  const double weights = std::max(1.0, histogram.weights());
  for (int step = 0; step < 200; ++step) {
    const double excess = (correction * histogram.Bits(log2_delta) - budget_bits) / weights;
    if (std::abs(excess) < 1e-6) break;
    log2_delta += excess;
  }
  return log2_delta;
}

TrellisPrices PricesOf(const EntropyTables* tables) {
  if (tables == nullptr) return {std::vector<float>(2 * kPricedMagnitudes, 0.0f)};
  // At high rate a grid of step 2 has a distortion of 4/12, and a bit quarters it.
  constexpr double kBit = 2 * std::numbers::ln2 * 4 / 12;
  TrellisPrices prices;
  for (int symbol_class = 0; symbol_class < kSymbolClasses; ++symbol_class) {
    for (int grid = 0; grid < 2; ++grid) {
      for (int k = 0; k < kPricedMagnitudes; ++k) {
        prices.price.push_back(
            static_cast<float>(kRateShare * kBit * tables->Cost(symbol_class, grid, k)));
      }
    }
  }
  return prices;
}

void ForeseeClasses(const EntropyInput& input, ScaledCodes& codes) {
  const std::vector<float> row = Scales(codes.row_scale, codes.scale_steps, 2 * codes.gain);
  const std::vector<float> column = Scales(codes.column_scale, codes.scale_steps, 1);
  constexpr float kLargest = 32000;
  for (int64_t r = 0; r < input.rows; ++r) {
    for (int64_t c = 0; c < input.columns; ++c) {
      const int64_t at = r * input.columns + c;
      const float k = std::round(input.w[at] / (row[r] * column[c]));
      codes.integers[at] = static_cast<int16_t>(std::clamp(k, -kLargest, kLargest));
    }
  }
  AssignClasses(codes);
}

StatusOr<double> CodeEntropy(const EntropyInput& input, const TrellisPrices& prices,
                             Rounder& rounder, ScaledCodes& codes) {
  const std::vector<float> row_step = Scales(codes.row_scale, codes.scale_steps, codes.gain);
  const std::vector<float> column_step = Scales(codes.column_scale, codes.scale_steps, 1);
  const std::vector<float> row_weight =
      Weights(input.row_curvature, codes.row_scale, codes.scale_steps);
  const std::vector<float> column_weight =
      Weights(input.column_curvature, codes.column_scale, codes.scale_steps);
  return rounder.RoundToTrellis(
      {.w = input.w,
       .rows = input.rows,
       .columns = input.columns,
       .inputs = input.inputs,
       .blocks = input.blocks,
       .tile_rows = input.blocks.front().lower.empty() ? kEntropyFreeRows : kEntropyTileRows},
      {.row_step = row_step,
       .column_step = column_step,
       .row_weight = row_weight,
       .column_weight = column_weight,
       .row_class = codes.row_class,
       .column_class = codes.column_class,
       .prices = &prices,
       .row_curvature = input.row_curvature,
       .column_curvature = input.column_curvature},
      codes.integers);
}

}  // namespace cvxq
