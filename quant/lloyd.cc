// The codec `lloyd`.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "quant/codec.h"
#include "quant/round_group.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr int kReach = 2;  // grid steps to either side that the scale search tries

float RootMeanSquare(const float* values, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(values[i]) * values[i];
  return static_cast<float>(std::sqrt(squares / n));
}

class LloydCoder {
 public:
  LloydCoder(const CodecInput& input, ThreadPool& pool)
      : in_(input),
        layout_(*input.layout),
        lines_(layout_.line_count()),
        pool_(pool),
        packed_(StartPackedMatrix(input, /*means=*/false)) {
    codes_.resize(layout_.rows * layout_.columns);
  }

  PackedMatrix Run() {
    layout_.partition == Partition::kColumns ? RoundClusters() : RoundRuns();
    PackCodes(codes_, packed_);
    return std::move(packed_);
  }

 private:
  // kColumns: a tile of rows is a cluster, each of its columns one group.
  void RoundClusters() {
    RowBlock all;
    if (in_.blocks.empty()) all.rows = layout_.members;
    const FeedbackInput feedback{
        .w = in_.w,
        .rows = layout_.rows,
        .columns = layout_.columns,
        .inputs = in_.inputs,
        .blocks = in_.blocks.empty() ? std::span<const RowBlock>(&all, 1) : in_.blocks,
        .tile_rows = layout_.cluster_size};
    std::vector<int64_t> first_member(feedback.blocks.size(), 0);
    for (size_t b = 1; b < feedback.blocks.size(); ++b) {
      first_member[b] =
          first_member[b - 1] + static_cast<int64_t>(feedback.blocks[b - 1].rows.size());
    }
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      const int64_t begin = first_member[tile.block] + tile.first;
      const int64_t group = begin / layout_.cluster_size * lines_ + tile.column;
      RoundGroup(tile, group, &codes_[begin * lines_ + tile.column * tile.rows], target, rounded);
    });
  }

  void RoundGroup(const ColumnTile& tile, int64_t group, uint8_t* codes, float* target,
                  float* rounded) {
    const float rms = RootMeanSquare(target, tile.rows);
    if (!(rms > 0)) packed_.depth[group] = 0;
    const int depth = packed_.depth[group];
    if (depth == 0) {
      RoundRows(tile, target, rounded, [](int64_t, float) { return 0.0f; });
      return;
    }
    const int index =
        FitScale(*in_.tables, depth, in_.scale_steps, rms, kReach, target, tile.rows, codes);
    const float scale = ScaleFromIndex(index, in_.scale_steps);
    packed_.scale[group] = scale;
    const float* table = in_.tables->table[depth].data();
    RoundRows(tile, target, rounded, [&](int64_t r, float t) {
      // Without feedback between rows the fit has already rounded what is rounded here.
      if (tile.lower != nullptr) codes[r] = in_.tables->Encode(depth, t / scale);
      return scale * table[codes[r]];
    });
  }

  // kRows: scales first, from the original weights; then column by column.
  void RoundRuns() {
    const int64_t columns = layout_.columns;
    pool_.ParallelFor(layout_.rows, [&](int64_t row) {
      std::vector<float> values(layout_.cluster_size);
      std::vector<uint8_t> trial(layout_.cluster_size);
      for (int64_t c = 0; c < layout_.cluster_count(); ++c) {
        const int64_t n = layout_.members_in(c);
        for (int64_t i = 0; i < n; ++i) {
          values[i] = in_.w[row * columns + layout_.members[layout_.cluster_begin(c) + i]];
        }
        const int64_t group = c * lines_ + row;
        const float rms = RootMeanSquare(values.data(), n);
        if (!(rms > 0)) packed_.depth[group] = 0;
        if (packed_.depth[group] == 0) continue;
        packed_.scale[group] =
            ScaleFromIndex(FitScale(*in_.tables, packed_.depth[group], in_.scale_steps, rms, kReach,
                                    values.data(), n, trial.data()),
                           in_.scale_steps);
      }
    });
    const std::vector<int32_t> cluster = layout_.ClusterOfMember();
    std::vector<int64_t> place(columns);  // of a column among the members
    for (int64_t i = 0; i < columns; ++i) place[layout_.members[i]] = i;
    RowBlock all;
    if (in_.blocks.empty()) {
      all.rows.resize(layout_.rows);
      std::iota(all.rows.begin(), all.rows.end(), 0);
    }
    const FeedbackInput feedback{
        .w = in_.w,
        .rows = layout_.rows,
        .columns = columns,
        .inputs = in_.inputs,
        .blocks = in_.blocks.empty() ? std::span<const RowBlock>(&all, 1) : in_.blocks};
    RoundWithFeedback(feedback, pool_, [&](const ColumnTile& tile, float* target, float* rounded) {
      const int64_t c = cluster[tile.column];
      const int64_t begin = layout_.cluster_begin(c), n = layout_.members_in(c);
      RoundRows(tile, target, rounded, [&](int64_t r, float t) {
        const int64_t group = c * lines_ + tile.row[r];
        const int depth = packed_.depth[group];
        if (depth == 0) return 0.0f;
        const float scale = packed_.scale[group];
        const uint8_t code = in_.tables->Encode(depth, t / scale);
        codes_[begin * lines_ + tile.row[r] * n + place[tile.column] - begin] = code;
        return scale * in_.tables->table[depth][code];
      });
    });
  }

  const CodecInput in_;
  const GroupLayout& layout_;
  const int64_t lines_;
  ThreadPool& pool_;
  PackedMatrix packed_;
  std::vector<uint8_t> codes_;  // as PackCodes takes them
};

}  // namespace

PackedMatrix CodeLloyd(const CodecInput& input, ThreadPool& pool) {
  return LloydCoder(input, pool).Run();
}

}  // namespace cvxq
