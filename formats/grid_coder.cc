#include "formats/grid_coder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "formats/scale_search.h"
#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr int64_t kTileRows = 64, kLanes = 16;
// How much of what feedback adds to the weights scales are fitted to again.
constexpr float kRefitShare = 0.2f;

// By how much wider than the weights the values are that scales are fitted to: feedback spreads
// what is to be rounded, and few levels are soon at their ends.
float Widening(size_t levels) {
  return levels <= 4 ? 1.13f : levels <= 8 ? 1.05f : levels <= 16 ? 1.012f : 1.0f;
}

// How a value in steps becomes a code: uniform levels by rounding, ties to even; others by the
// number of edges (halfway between levels) that it is above. Many levels are those of small floats:
// between two numbers of a sign, an exponent and three bits more lies one edge at most.
class Rounding {
 public:
  explicit Rounding(const WeightType& type) : levels_(type.levels()), uniform_(type.uniform()) {
    lowest_ = levels_.front();
    highest_ = levels_.back();
    while (span_ < levels_.size()) span_ *= 2;
    edges_.assign(span_, std::numeric_limits<float>::infinity());
    for (size_t k = 0; k + 1 < levels_.size(); ++k) edges_[k] = (levels_[k] + levels_[k + 1]) / 2;
    if (uniform_ || levels_.size() <= kFewLevels) return;
    below_.resize(size_t{1} << (32 - kPrefixShift));
    for (uint32_t prefix = 0; prefix < below_.size(); ++prefix) {
      const float one = std::bit_cast<float>(prefix << kPrefixShift);
      const float other = std::bit_cast<float>(((prefix + 1) << kPrefixShift) - 1);
      below_[prefix] = static_cast<uint8_t>(Search(std::min(one, other)));
    }
  }

  // That of a NaN is 0.
  int Code(float u) const {
    if (uniform_) {
      const float level = std::min(std::max(lowest_, u), highest_);
      return static_cast<int>(((level + 0x1.8p23f) - 0x1.8p23f) - lowest_);
    }
    if (!below_.empty()) {
      const int below = below_[std::bit_cast<uint32_t>(u) >> kPrefixShift];
      return below + (u > edges_[below] ? 1 : 0);
    }
    return Search(u);
  }
  float Level(int code) const { return levels_[code]; }
  // Codes of x [subs * sub], as Code gives them.
  void Codes(int64_t sub, const float* x, const float* step, const float* offset, int64_t subs,
             uint8_t* codes) const {
    if (below_.empty()) {
      ScaleSearchHere().nearest(levels_.data(), uniform_ ? nullptr : edges_.data(),
                                static_cast<int>(levels_.size()), sub, x, step, offset, subs,
                                codes);
      return;
    }
    for (int64_t j = 0; j < subs; ++j) {
      const float inverse = step[j] != 0 ? 1 / step[j] : 0.0f,
                  o = offset != nullptr ? offset[j] : 0;
      for (int64_t i = j * sub; i < (j + 1) * sub; ++i) {
        codes[i] = static_cast<uint8_t>(Code((x[i] - o) * inverse));
      }
    }
  }

 private:
  static constexpr size_t kFewLevels = 16;
  static constexpr int kPrefixShift = 20;  // of a float's bits

  int Search(float u) const {
    size_t code = 0;
    for (size_t step = span_ / 2; step > 0; step /= 2) {
      code += u > edges_[code + step - 1] ? step : 0;
    }
    return static_cast<int>(code);
  }

  const std::span<const float> levels_;
  const std::optional<int> uniform_;
  float lowest_, highest_;
  size_t span_ = 1;
  std::vector<float> edges_;
  std::vector<uint8_t> below_;  // by the first bits of a value: edges below all that begin so
};

// One column of a tile: the grid of each row, and what came of it.
struct Column {
  int64_t rows;
  std::array<float, kTileRows> step, offset, inverse;
  std::array<uint8_t, kTileRows> code;
};

// target[i] -= l[i] * error for i < n.
CVXQ_CPU_CLONES void Carry(const float* l, float error, int64_t n, float* target) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) target[i + lane] -= l[i + lane] * error;
  }
  for (; i < n; ++i) target[i] -= l[i] * error;
}

CVXQ_CPU_CLONES float LargestSize(const float* x, int64_t n) {
  float largest[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float size = std::fabs(x[i + lane]);
      largest[lane] = size > largest[lane] ? size : largest[lane];
    }
  }
  for (; i < n; ++i) largest[0] = std::max(largest[0], std::fabs(x[i]));
  return *std::max_element(largest, largest + kLanes);
}

// The sum of weight (x - y)^2, in an order that n alone decides.
CVXQ_CPU_CLONES double SquaredError(const float* x, const float* y, const float* weight,
                                    int64_t n) {
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double error = static_cast<double>(x[i + lane]) - y[i + lane];
      sums[lane] += error * error * weight[i + lane];
    }
  }
  for (int64_t lane = 0; i < n; ++i, ++lane) {
    const double error = static_cast<double>(x[i]) - y[i];
    sums[lane] += error * error * weight[i];
  }
  return std::accumulate(sums, sums + kLanes, 0.0);
}

void RoundTile(const Rounding& rounding, const ColumnTile& tile, Column& c, float* target,
               float* rounded) {
  for (int64_t r = tile.rows - 1; r >= 0; --r) {
    const int code = rounding.Code((target[r] - c.offset[r]) * c.inverse[r]);
    c.code[r] = static_cast<uint8_t>(code);
    const float product = c.step[r] * rounding.Level(code);
    rounded[r] = product + c.offset[r];
    if (tile.lower == nullptr) continue;
    Carry(tile.lower + r * tile.stride, rounded[r] - tile.original[r], r, target);
  }
}

class Coder {
 public:
  Coder(const GridInput& input, const WeightType& type, ThreadPool& pool)
      : in_(input), type_(type), pool_(pool), rounding_(type), column_weight_(in_.columns, 1.0f) {
    if (in_.inputs != nullptr) {
      WeighByInputs();
      widening_ = Widening(type.levels().size());
    } else {
      if (!in_.column_weight.empty()) {
        column_weight_.assign(in_.column_weight.begin(), in_.column_weight.end());
      }
      fit_weight_ = column_weight_;
    }
    if (in_.blocks.empty()) {
      RowBlock& block = free_rows_.emplace_back();
      block.rows.resize(in_.rows);
      std::iota(block.rows.begin(), block.rows.end(), 0);
    }
  }

  GridMatrix Start() const {
    GridMatrix m{.type = &type_, .rows = in_.rows, .columns = in_.columns};
    m.matrix_scale = type_.MatrixScale(LargestSize(in_.w, in_.rows * in_.columns));
    m.fields.resize(in_.rows * BlocksOfRow() * type_.field_bytes());
    m.step.resize(in_.rows * (in_.columns / type_.sub()));
    if (type_.has_offset()) m.offset.resize(m.step.size());
    m.codes.resize(in_.rows * in_.columns);
    return m;
  }

  // Grids for the weights, or for what lies between them and `targets` [M, N].
  void Fit(const float* targets, GridMatrix& m) const {
    const int64_t subs = in_.columns / type_.sub();
    pool_.ParallelFor(in_.rows, [&](int64_t r) {
      const float* w = in_.w + r * in_.columns;
      std::vector<float> values;
      if (targets != nullptr || widening_ != 1) {
        values.assign(w, w + in_.columns);
        Spread(targets != nullptr ? targets + r * in_.columns : nullptr, values);
      }
      type_.Fit(values.empty() ? w : values.data(), fit_weight_.data(), BlocksOfRow(),
                m.matrix_scale, &m.fields[r * BlocksOfRow() * type_.field_bytes()],
                &m.step[r * subs], m.offset.empty() ? nullptr : &m.offset[r * subs]);
    });
  }

  // Codes on the grids of m, and the distortion. `targets` [M, N] takes the values that were
  // rounded, feedback included; it may be nullptr.
  void Round(float* targets, GridMatrix& m) const {
    if (in_.inputs == nullptr && in_.blocks.empty()) {
      RoundToNearest(m);
      if (targets != nullptr) std::copy_n(in_.w, m.codes.size(), targets);
      return;
    }
    const int64_t subs = in_.columns / type_.sub();
    std::vector<double> distortion(in_.rows);
    const FeedbackInput feedback{.w = in_.w,
                                 .rows = in_.rows,
                                 .columns = in_.columns,
                                 .inputs = in_.inputs,
                                 .blocks = in_.blocks.empty() ? free_rows_ : in_.blocks,
                                 .tile_rows = kTileRows};
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      Column c;
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t grid = tile.row[r] * subs + tile.column / type_.sub();
        c.step[r] = m.step[grid];
        c.offset[r] = m.offset.empty() ? 0.0f : m.offset[grid];
        c.inverse[r] = c.step[r] != 0 ? 1 / c.step[r] : 0.0f;
      }
      RoundTile(rounding_, tile, c, target, rounded);
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t at = tile.row[r] * in_.columns + tile.column;
        m.codes[at] = c.code[r];
        const double error = static_cast<double>(target[r]) - rounded[r];
        distortion[tile.row[r]] += error * error * column_weight_[tile.column];
        if (targets != nullptr) targets[at] = target[r];
      }
    });
    SumUp(distortion, m);
  }

 private:
  void SumUp(const std::vector<double>& of_row, GridMatrix& m) const {
    m.distortion = 0;
    for (int64_t r = 0; r < in_.rows; ++r) {
      m.distortion += in_.row_weight.empty() ? of_row[r] : of_row[r] * in_.row_weight[r];
    }
  }

  // As Round where nothing feeds back.
  void RoundToNearest(GridMatrix& m) const {
    const int64_t sub = type_.sub(), subs = in_.columns / sub;
    std::vector<double> distortion(in_.rows);
    pool_.ParallelFor(in_.rows, [&](int64_t r) {
      const float* x = in_.w + r * in_.columns;
      const float* step = &m.step[r * subs];
      const float* offset = m.offset.empty() ? nullptr : &m.offset[r * subs];
      uint8_t* codes = &m.codes[r * in_.columns];
      rounding_.Codes(sub, x, step, offset, subs, codes);
      std::vector<float> decoded(in_.columns);
      for (int64_t j = 0; j < subs; ++j) {
        const float o = offset != nullptr ? offset[j] : 0.0f;
        for (int64_t c = j * sub; c < (j + 1) * sub; ++c) {
          const float product = step[j] * rounding_.Level(codes[c]);
          decoded[c] = product + o;
        }
      }
      distortion[r] = SquaredError(x, decoded.data(), column_weight_.data(), in_.columns);
    });
    SumUp(distortion, m);
  }

  // What scales of a row of weights should fit, in place of these.
  void Spread(const float* targets, std::vector<float>& values) const {
    for (int64_t c = 0; c < in_.columns; ++c) {
      float value = values[c];
      if (targets != nullptr) value += kRefitShare * (targets[c] - value);
      value *= widening_;
      if (std::isfinite(value)) values[c] = value;
    }
  }

  int64_t BlocksOfRow() const { return in_.columns / type_.block(); }

  // D_I weighs the distortion; its geometric mean with the diagonal of H_I the search for scales.
  void WeighByInputs() {
    const CurvatureFactor& f = *in_.inputs;
    fit_weight_.resize(f.n);
    for (int64_t i = 0; i < f.n; ++i) {
      double h = f.diagonal[i];
      for (int64_t j = 0; j < i; ++j) {
        const double l = f.lower[i * f.n + j];
        h += l * l * f.diagonal[j];
      }
      column_weight_[f.order[i]] = f.diagonal[i];
      fit_weight_[f.order[i]] = static_cast<float>(std::sqrt(h * f.diagonal[i]));
    }
  }

  const GridInput& in_;
  const WeightType& type_;
  ThreadPool& pool_;
  const Rounding rounding_;
  std::vector<float> column_weight_;  // D_I by column
  std::vector<float> fit_weight_;
  float widening_ = 1;
  std::vector<RowBlock> free_rows_;
};

}  // namespace

GridMatrix CodeOnGrids(const GridInput& input, const WeightType& type, ThreadPool& pool,
                       int refits) {
  const Coder coder(input, type, pool);
  GridMatrix best = coder.Start();
  std::vector<float> targets(refits > 0 ? best.codes.size() : 0);
  coder.Fit(/*targets=*/nullptr, best);
  coder.Round(targets.empty() ? nullptr : targets.data(), best);
  for (int refit = 0; refit < refits; ++refit) {
    GridMatrix next = coder.Start();
    coder.Fit(targets.data(), next);
    coder.Round(targets.data(), next);
    if (next.distortion < best.distortion) std::swap(best, next);
  }
  return best;
}

GridMatrix CodeNearest(const GridInput& input, const WeightType& type, ThreadPool& pool) {
  const GridInput plain{.w = input.w, .rows = input.rows, .columns = input.columns};
  return CodeOnGrids(plain, type, pool, /*refits=*/0);
}

}  // namespace cvxq
