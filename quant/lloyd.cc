// The codec `lloyd`.
#include <numeric>

#include "quant/codec.h"
#include "quant/round_group.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr int kReach = 2;  // grid steps to either side that the scale search tries

class LloydCoder {
 public:
  LloydCoder(const CodecInput& input, ThreadPool& pool, Rounder& rounder)
      : in_(input),
        layout_(*input.layout),
        lines_(layout_.line_count()),
        pool_(pool),
        rounder_(rounder),
        packed_(StartPackedMatrix(input, /*means=*/false)),
        codes_(layout_.rows * layout_.columns) {}

  StatusOr<PackedMatrix> Run() {
    CVXQ_RETURN_IF_ERROR(by_columns() ? RoundClusters() : RoundRuns());
    PackCodes(CodesByCluster(), packed_);
    return std::move(packed_);
  }

 private:
  bool by_columns() const { return layout_.partition == Partition::kColumns; }

  // kColumns: a tile of rows is a cluster, each of its columns one group.
  Status RoundClusters() {
    RowBlock all;
    if (in_.blocks.empty()) all.rows = layout_.members;
    return rounder_.RoundToFittedLevels({.w = in_.w,
                                         .rows = layout_.rows,
                                         .columns = layout_.columns,
                                         .inputs = in_.inputs,
                                         .blocks = BlocksOr(all),
                                         .tile_rows = layout_.cluster_size},
                                        {.tables = in_.tables,
                                         .scale_steps = in_.scale_steps,
                                         .reach = kReach,
                                         .depth = packed_.depth,
                                         .scale = packed_.scale},
                                        codes_);
  }

  // kRows: scales first, from the original weights; then column by column.
  Status RoundRuns() {
    pool_.ParallelFor(layout_.rows, [&](int64_t row) { FitRow(row); });
    const std::vector<int32_t> cluster = layout_.ClusterOfMember();
    RowBlock all;
    if (in_.blocks.empty()) {
      all.rows.resize(layout_.rows);
      std::iota(all.rows.begin(), all.rows.end(), 0);
    }
    return rounder_.RoundToLevels(
        {.w = in_.w,
         .rows = layout_.rows,
         .columns = layout_.columns,
         .inputs = in_.inputs,
         .blocks = BlocksOr(all)},
        {.tables = in_.tables, .cluster = cluster, .depth = packed_.depth, .scale = packed_.scale},
        codes_);
  }

  void FitRow(int64_t row) {
    std::vector<float> values(layout_.cluster_size);
    std::vector<uint8_t> trial(layout_.cluster_size);
    for (int64_t c = 0; c < layout_.cluster_count(); ++c) {
      const int64_t n = layout_.members_in(c);
      for (int64_t i = 0; i < n; ++i) {
        values[i] = in_.w[row * layout_.columns + layout_.members[layout_.cluster_begin(c) + i]];
      }
      const int64_t group = c * lines_ + row;
      const float rms = RootMeanSquare(values.data(), n);
      if (!(rms > 0)) packed_.depth[group] = 0;
      if (packed_.depth[group] == 0) continue;
      const int index = FitScale(*in_.tables, packed_.depth[group], in_.scale_steps, rms, kReach,
                                 values.data(), n, trial.data());
      packed_.scale[group] = ScaleFromIndex(index, in_.scale_steps);
    }
  }

  std::span<const RowBlock> BlocksOr(const RowBlock& all) const {
    return in_.blocks.empty() ? std::span<const RowBlock>(&all, 1) : in_.blocks;
  }

  // As PackCodes takes them.
  std::vector<uint8_t> CodesByCluster() const {
    std::vector<uint8_t> codes(codes_.size());
    const int64_t member_step = by_columns() ? layout_.columns : 1;
    const int64_t line_step = by_columns() ? 1 : layout_.columns;
    pool_.ParallelFor(layout_.cluster_count(), [&](int64_t c) {
      const int64_t begin = layout_.cluster_begin(c), n = layout_.members_in(c);
      for (int64_t line = 0; line < lines_; ++line) {
        for (int64_t i = 0; i < n; ++i) {
          codes[begin * lines_ + line * n + i] =
              codes_[layout_.members[begin + i] * member_step + line * line_step];
        }
      }
    });
    return codes;
  }

  const CodecInput in_;
  const GroupLayout& layout_;
  const int64_t lines_;
  ThreadPool& pool_;
  Rounder& rounder_;
  PackedMatrix packed_;
  std::vector<uint8_t> codes_;  // [M, N]
};

}  // namespace

StatusOr<PackedMatrix> CodeLloyd(const CodecInput& input, ThreadPool& pool, Rounder& rounder) {
  return LloydCoder(input, pool, rounder).Run();
}

}  // namespace cvxq
