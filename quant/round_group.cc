#include "quant/round_group.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/cpu_clones.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr int64_t kLanes = 16;  // values worked side by side, and partial sums of the error

// One version for each instruction set, picked by the loader; no contraction or reassociation, so
// all give the same bits. Small depths count the boundaries below the value, without a branch.
CVXQ_CPU_CLONES float RoundLanes(const float* table, const float* boundary, int levels, float scale,
                                 float inverse, float mean, const float* values, int64_t n,
                                 uint8_t* codes) {
  float error[kLanes] = {};
  for (int64_t first = 0; first < n; first += kLanes) {
    float x[kLanes], unit[kLanes];
    int32_t code[kLanes];
    const int64_t count = std::min(kLanes, n - first);
    for (int64_t i = 0; i < kLanes; ++i) {
      x[i] = i < count ? values[first + i] : mean;
      unit[i] = (x[i] - mean) * inverse;
      code[i] = 0;
    }
    if (levels <= 16) {
      for (int k = 0; k + 1 < levels; ++k) {
        const float edge = boundary[k];
        for (int64_t i = 0; i < kLanes; ++i) code[i] += unit[i] >= edge ? 1 : 0;
      }
    } else {
      for (int step = levels / 2; step > 0; step /= 2) {
        for (int64_t i = 0; i < kLanes; ++i) {
          code[i] += unit[i] >= boundary[code[i] + step - 1] ? step : 0;
        }
      }
    }
    for (int64_t i = 0; i < kLanes; ++i) {
      const float product = scale * table[code[i]];
      const float difference = i < count ? ((product + mean) - x[i]) * inverse : 0.0f;
      error[i] += difference * difference;  // in scales: no size of weights over- or underflows
    }
    for (int64_t i = 0; i < count; ++i) codes[first + i] = static_cast<uint8_t>(code[i]);
  }
  float sum = 0;
  for (const float e : error) sum += e;
  return sum;
}

}  // namespace

float RootMeanSquare(const float* values, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(values[i]) * values[i];
  return static_cast<float>(std::sqrt(squares / n));
}

double RoundGroup(const LevelTables& tables, int depth, float scale, float mean,
                  const float* values, int64_t n, uint8_t* codes) {
  const double error = RoundLanes(tables.table[depth].data(), tables.boundary[depth].data(),
                                  1 << depth, scale, 1 / scale, mean, values, n, codes);
  return error * scale * scale;
}

int FitScale(const LevelTables& tables, int depth, int scale_steps, float scale_guess, int reach,
             const float* values, int64_t n, uint8_t* codes) {
  const int centre =
      ScaleToIndex(std::max(scale_guess, std::numeric_limits<float>::min()), scale_steps);
  const int lowest = kMinScaleIndex / (16 / scale_steps),
            highest = kMaxScaleIndex / (16 / scale_steps);
  std::vector<uint8_t> trial(n);
  double best_error = std::numeric_limits<double>::infinity();
  int best = std::clamp(centre, lowest, highest);
  for (int index = std::max(lowest, centre - reach); index <= std::min(highest, centre + reach);
       ++index) {
    const double error =
        RoundGroup(tables, depth, ScaleFromIndex(index, scale_steps), 0, values, n, trial.data());
    if (error < best_error) {
      best_error = error;
      best = index;
      std::copy(trial.begin(), trial.end(), codes);
    }
  }
  return best;
}

}  // namespace cvxq
