// The codec `lloyd`.
#include <algorithm>
#include <cmath>

#include "quant/codec.h"
#include "quant/feedback.h"
#include "quant/round_group.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr int kReach = 2;          // grid steps to either side that the scale search tries
constexpr int64_t kSlabRows = 64;  // rows of a slab under kRows

float RootMeanSquare(const float* values, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(values[i]) * values[i];
  return static_cast<float>(std::sqrt(squares / n));
}

class LloydCoder : public LayerCoder {
 public:
  explicit LloydCoder(const CodecInput& input)
      : in_(input),
        layout_(*input.layout),
        lines_(layout_.line_count()),
        packed_(StartPackedMatrix(input, /*means=*/false)) {
    codes_.resize(layout_.rows * layout_.columns);
    if (layout_.partition == Partition::kRows) cluster_of_member_ = layout_.ClusterOfMember();
  }

  int64_t slabs() const override {
    return layout_.partition == Partition::kColumns ? layout_.cluster_count()
                                                    : (layout_.rows + kSlabRows - 1) / kSlabRows;
  }

  void CodeSlab(int64_t slab) override {
    layout_.partition == Partition::kColumns ? CodeCluster(slab) : CodeRows(slab);
  }

  PackedMatrix Finish() override {
    PackCodes(codes_, packed_);
    return std::move(packed_);
  }

 private:
  // kColumns: the slab is a cluster, each of its columns one group.
  void CodeCluster(int64_t c) {
    const int64_t n = layout_.members_in(c);
    std::vector<float> w(n * lines_);
    GatherCluster(layout_, c, in_.w, w.data());
    uint8_t* codes = &codes_[layout_.cluster_begin(c) * lines_];
    RoundWithFeedback(in_.factor, n, lines_, w.data(),
                      [&](int64_t column, const float* target, float* rounded) {
                        RoundWhole(c * lines_ + column, target, n, codes + column * n, rounded);
                      });
  }

  void RoundWhole(int64_t group, const float* target, int64_t n, uint8_t* codes, float* rounded) {
    const float rms = RootMeanSquare(target, n);
    if (!(rms > 0)) packed_.depth[group] = 0;
    const int depth = packed_.depth[group];
    if (depth == 0) {
      std::fill_n(rounded, n, 0.0f);
      return;
    }
    const int index = FitScale(*in_.tables, depth, in_.scale_steps, rms, kReach, target, n, codes);
    const float scale = ScaleFromIndex(index, in_.scale_steps);
    packed_.scale[group] = scale;
    const float* table = in_.tables->table[depth].data();
    for (int64_t i = 0; i < n; ++i) rounded[i] = scale * table[codes[i]];
  }

  // kRows: the slab is a run of rows; scales first, from the original weights, then column by
  // column.
  void CodeRows(int64_t slab) {
    const int64_t first = slab * kSlabRows, rows = std::min(kSlabRows, layout_.rows - first);
    const int64_t columns = layout_.columns;
    std::vector<float> values(layout_.cluster_size);
    std::vector<uint8_t> trial(layout_.cluster_size);
    for (int64_t c = 0; c < layout_.cluster_count(); ++c) {
      const int64_t n = layout_.members_in(c);
      for (int64_t r = first; r < first + rows; ++r) {
        for (int64_t i = 0; i < n; ++i) {
          values[i] = in_.w[r * columns + layout_.members[layout_.cluster_begin(c) + i]];
        }
        const int64_t group = c * lines_ + r;
        const float rms = RootMeanSquare(values.data(), n);
        if (!(rms > 0)) packed_.depth[group] = 0;
        if (packed_.depth[group] == 0) continue;
        packed_.scale[group] =
            ScaleFromIndex(FitScale(*in_.tables, packed_.depth[group], in_.scale_steps, rms, kReach,
                                    values.data(), n, trial.data()),
                           in_.scale_steps);
      }
    }
    std::vector<int64_t> place(columns);  // of a column among its cluster's members
    for (int64_t i = 0; i < columns; ++i) place[layout_.members[i]] = i;
    std::vector<float> w(rows * columns);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < columns; ++k) w[k * rows + r] = in_.w[(first + r) * columns + k];
    }
    RoundWithFeedback(in_.factor, rows, columns, w.data(),
                      [&](int64_t column, const float* target, float* rounded) {
                        const int64_t c = cluster_of_member_[column];
                        const int64_t begin = layout_.cluster_begin(c), n = layout_.members_in(c);
                        for (int64_t r = 0; r < rows; ++r) {
                          const int64_t group = c * lines_ + first + r;
                          const int depth = packed_.depth[group];
                          rounded[r] = 0;
                          if (depth == 0) continue;
                          const float scale = packed_.scale[group];
                          const uint8_t code = in_.tables->Encode(depth, target[r] / scale);
                          codes_[begin * lines_ + (first + r) * n + place[column] - begin] = code;
                          rounded[r] = scale * in_.tables->table[depth][code];
                        }
                      });
  }

  const CodecInput in_;
  const GroupLayout& layout_;
  const int64_t lines_;
  PackedMatrix packed_;
  std::vector<uint8_t> codes_;  // as PackCodes takes them
  std::vector<int32_t> cluster_of_member_;
};

}  // namespace

std::unique_ptr<LayerCoder> MakeLloydCoder(const CodecInput& input) {
  return std::make_unique<LloydCoder>(input);
}

}  // namespace cvxq
