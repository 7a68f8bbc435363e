// rtn, gptq and owq; affine_awq.cc has awq.
#include "quant/affine_codecs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/host_gemm.h"
#include "quant/affine.h"

namespace cvxq {
namespace {

// kReached: fits the grids of a tile's rows when the first column of a group comes. Tiles of
// different rows at once from several threads.
class ReachedGroups {
 public:
  ReachedGroups(const AffineInput& input, std::span<const RowBlock> blocks)
      : in_(input), place_(input.columns), error_(input.rows * input.columns) {
    std::iota(place_.begin(), place_.end(), 0);
    if (in_.inputs != nullptr) {
      for (int64_t i = 0; i < in_.columns; ++i) place_[in_.inputs->order[i]] = i;
    }
    int64_t rows = 0;
    for (const RowBlock& block : blocks) {
      first_row_.push_back(rows);
      rows += static_cast<int64_t>(block.rows.size());
    }
  }

  // Before the column of `tile` is rounded.
  void Reach(const ColumnTile& tile, AffineMatrix& m) {
    const int64_t begin = tile.column / in_.group * in_.group;
    const int64_t n = std::min(in_.group, in_.columns - begin), place = place_[tile.column];
    if (*std::max_element(&place_[begin], &place_[begin] + n) != place) return;  // not the first
    std::vector<float> target(tile.rows * n);
    for (int64_t r = 0; r < tile.rows; ++r) {
      std::copy_n(in_.w + tile.row[r] * in_.columns + begin, n, &target[r * n]);
    }
    const int64_t worked = in_.columns - place - 1;
    if (in_.inputs != nullptr && worked > 0) {
      std::vector<float> lower(worked * n);  // L of the worked places, in the group's columns
      for (int64_t i = 0; i < worked; ++i) {
        const float* l = &in_.inputs->lower[(place + 1 + i) * in_.columns];
        for (int64_t c = 0; c < n; ++c) lower[i * n + c] = l[place_[begin + c]];
      }
      HostGemm(false, false, tile.rows, n, worked, -1, ErrorsOf(tile) + place + 1, in_.columns,
               lower.data(), n, 1, target.data(), n);
    }
    for (int64_t r = 0; r < tile.rows; ++r) {
      SetGrid(m, tile.row[r] * m.group_count() + begin / in_.group,
              GridOfRange(RangeOf(&target[r * n], n), m.bits));
    }
  }

  // After it has been.
  void Record(const ColumnTile& tile, const float* rounded) {
    float* errors = ErrorsOf(tile) + place_[tile.column];
    for (int64_t r = 0; r < tile.rows; ++r) {
      errors[r * in_.columns] = rounded[r] - tile.original[r];
    }
  }

 private:
  float* ErrorsOf(const ColumnTile& tile) {
    return &error_[(first_row_[tile.block] + tile.first) * in_.columns];
  }

  const AffineInput& in_;
  std::vector<int64_t> place_;      // of each column
  std::vector<int64_t> first_row_;  // of each block
  std::vector<float> error_;        // [rows in the order of the blocks, places]
};

// The factor of the same H with the columns `first` in the first places: worked last.
StatusOr<CurvatureFactor> WithColumnsFirst(const CurvatureFactor& factor,
                                           const std::vector<int32_t>& first) {
  const int64_t n = factor.n;
  std::vector<float> scaled = factor.lower, h(n * n);  // L D and H, by places
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) scaled[i * n + j] *= factor.diagonal[j];
  }
  HostGemm(false, true, n, n, n, 1, scaled.data(), n, factor.lower.data(), n, 0, h.data(), n);
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_partition(order.begin(), order.end(), [&](int32_t place) {
    return std::binary_search(first.begin(), first.end(), factor.order[place]);
  });
  CVXQ_ASSIGN_OR_RETURN(CurvatureFactor moved, FactorInOrder(h, std::move(order), /*damping=*/0));
  for (int32_t& place : moved.order) place = factor.order[place];
  return moved;
}

// The k columns of largest moment times squared error of rounding to nearest, ascending.
std::vector<int32_t> MostSensitiveColumns(const AffineInput& in, std::span<const float> moments,
                                          int64_t k, ThreadPool& pool) {
  const std::vector<float> decoded = Decode(CodeRtn(in, pool));
  std::vector<double> sensitivity(in.columns);
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t c = 0; c < in.columns; ++c) {
      const int64_t at = r * in.columns + c;
      const double error = static_cast<double>(decoded[at]) - in.w[at];
      sensitivity[c] += error * error;
    }
  }
  for (int64_t c = 0; c < in.columns; ++c) sensitivity[c] *= moments[c];
  std::vector<int32_t> columns(in.columns);
  std::iota(columns.begin(), columns.end(), 0);
  std::stable_sort(columns.begin(), columns.end(),
                   [&](int32_t a, int32_t b) { return sensitivity[a] > sensitivity[b]; });
  columns.resize(k);
  std::sort(columns.begin(), columns.end());
  return columns;
}

}  // namespace

AffineMatrix CodeRtn(const AffineInput& in, ThreadPool& pool) {
  AffineMatrix m = StartAffineMatrix(in.rows, in.columns, in.bits, in.group);
  FitGrids(in.w, /*share=*/1, /*skip=*/{}, pool, m);
  RoundToNearest(in.w, pool, m);
  return m;
}

StatusOr<AffineMatrix> CodeGptq(const AffineInput& in, std::span<const RowBlock> blocks,
                                GroupRange range, ThreadPool& pool, Rounder& rounder) {
  AffineMatrix m = StartAffineMatrix(in.rows, in.columns, in.bits, in.group);
  const FeedbackInput feedback = {
      .w = in.w, .rows = in.rows, .columns = in.columns, .inputs = in.inputs, .blocks = blocks};
  if (range == GroupRange::kReached) {
    ReachedGroups reached(in, blocks);
    RoundWithFeedback(feedback, pool, [&](const ColumnTile& tile, float* target, float* rounded) {
      reached.Reach(tile, m);
      RoundColumnToGrid(tile, m, target, rounded);
      reached.Record(tile, rounded);
    });
    return m;
  }
  const float share = range == GroupRange::kTrimmed ? TrimmedShare(in.bits, in.group) : 1.0f;
  FitGrids(in.w, share, /*skip=*/{}, pool, m);
  CVXQ_RETURN_IF_ERROR(rounder.RoundToGrids(feedback, m));
  return m;
}

StatusOr<AffineMatrix> CodeOwq(const AffineInput& input, std::span<const float> moments,
                               double bits, ThreadPool& pool, Rounder& rounder) {
  constexpr double kHalfBits = 16, kSlack = 1e-9;  // 3.01 is not quite 3.01
  AffineInput in = input;
  in.bits = static_cast<int>(bits);
  const double kept_share = (bits - in.bits) / (kHalfBits - in.bits);
  const auto kept = static_cast<int64_t>(kept_share * static_cast<double>(in.columns) + kSlack);

  AffineMatrix m = StartAffineMatrix(in.rows, in.columns, in.bits, in.group);
  m.kept_columns = MostSensitiveColumns(in, moments, kept, pool);
  m.kept.resize(in.rows * kept);
  std::vector<uint8_t> is_kept(in.columns);
  for (const int32_t column : m.kept_columns) is_kept[column] = 1;
  FitGrids(in.w, /*share=*/1, is_kept, pool, m);
  CurvatureFactor moved;
  if (in.inputs != nullptr && kept > 0) {
    CVXQ_ASSIGN_OR_RETURN(moved, WithColumnsFirst(*in.inputs, m.kept_columns));
    in.inputs = &moved;
  }
  RowBlock rows;
  rows.rows.resize(in.rows);
  std::iota(rows.rows.begin(), rows.rows.end(), 0);
  CVXQ_RETURN_IF_ERROR(rounder.RoundToGrids({.w = in.w,
                                             .rows = in.rows,
                                             .columns = in.columns,
                                             .inputs = in.inputs,
                                             .blocks = {&rows, 1}},
                                            m));
  return m;
}

}  // namespace cvxq
