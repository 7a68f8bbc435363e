// The codec `companded`.
#include <algorithm>
#include <cmath>

#include "quant/codec.h"
#include "quant/round_group.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

// The search over steps (the grid's scales between these multiples of the deviation) and offsets
// (multiples of scale / 32 added to the mean). Wider steps lower the squared error further and harm
// the model: they shrink all weights together.
constexpr double kSmallestStep = 0.6, kLargestStep = 1.2;
constexpr int kOffsets[] = {0, -3, 3, -6, 6};

class CompandedCoder {
 public:
  explicit CompandedCoder(const CodecInput& input)
      : in_(input),
        layout_(*input.layout),
        lines_(layout_.line_count()),
        packed_(StartPackedMatrix(input, /*means=*/true)) {
    codes_.resize(layout_.rows * layout_.columns);
  }

  PackedMatrix Run(ThreadPool& pool) {
    pool.ParallelFor(layout_.cluster_count(), [&](int64_t c) { CodeCluster(c); });
    PackCodes(codes_, packed_);
    return std::move(packed_);
  }

 private:
  void CodeCluster(int64_t c) {
    const int64_t n = layout_.members_in(c);
    std::vector<float> w(n * lines_);
    GatherCluster(layout_, c, in_.w, w.data());
    std::vector<uint8_t> trial(n);
    uint8_t* codes = &codes_[layout_.cluster_begin(c) * lines_];
    for (int64_t line = 0; line < lines_; ++line) {
      CodeGroup(c * lines_ + line, &w[line * n], n, trial.data(), codes + line * n);
    }
  }

  void CodeGroup(int64_t group, const float* values, int64_t n, uint8_t* trial, uint8_t* codes) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) sum += values[i];
    const double mean = sum / n;
    for (int64_t i = 0; i < n; ++i) squares += (values[i] - mean) * (values[i] - mean);
    const double deviation = std::sqrt(squares / n);
    const int steps = in_.scale_steps;
    const float floor_scale = static_cast<float>(std::max(std::abs(mean), 1e-30));
    const int depth = deviation > 0 ? packed_.depth[group] : 0;
    // Pruned to its mean: what the search below has to beat.
    const float pruned_scale = ScaleFromIndex(
        ScaleToIndex(std::max(static_cast<float>(deviation), floor_scale), steps), steps);
    packed_.depth[group] = 0;
    packed_.scale[group] = pruned_scale;
    packed_.mean[group] =
        MeanFromIndex(MeanToIndex(static_cast<float>(mean), pruned_scale), pruned_scale);
    if (depth == 0) return;
    const double off = packed_.mean[group] - mean;
    double best = squares + n * off * off;
    // A mean reaches no further than kMaxMeanIndex / kMeanSteps scales: a group far off zero for
    // its deviation takes the scale that its mean needs.
    const double reach = std::abs(mean) * kMeanSteps / kMaxMeanIndex;
    const int first =
        ScaleToIndex(static_cast<float>(std::max(deviation * kSmallestStep, reach)), steps);
    const int last =
        ScaleToIndex(static_cast<float>(std::max(deviation * kLargestStep, reach)), steps);
    for (int index = first; index <= last; ++index) {
      const float scale = ScaleFromIndex(index, steps);
      const int centre = MeanToIndex(static_cast<float>(mean), scale);
      for (const int offset : kOffsets) {
        const int mean_index = std::clamp(centre + offset, -kMaxMeanIndex, kMaxMeanIndex);
        const float shifted = MeanFromIndex(mean_index, scale);
        const double error = RoundGroup(*in_.tables, depth, scale, shifted, values, n, trial);
        if (error < best) {
          best = error;
          packed_.depth[group] = static_cast<uint8_t>(depth);
          packed_.scale[group] = scale;
          packed_.mean[group] = shifted;
          std::copy_n(trial, n, codes);
        }
      }
    }
  }

  const CodecInput in_;
  const GroupLayout& layout_;
  const int64_t lines_;
  PackedMatrix packed_;
  std::vector<uint8_t> codes_;  // as PackCodes takes them
};

}  // namespace

PackedMatrix CodeCompanded(const CodecInput& input, ThreadPool& pool) {
  return CompandedCoder(input).Run(pool);
}

}  // namespace cvxq
