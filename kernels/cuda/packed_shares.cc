#include "kernels/cuda/packed_shares.h"

#include <algorithm>
#include <utility>

namespace cvxq::cuda {

int64_t StepCount(const ColumnLayout& layout) {
  int64_t steps = 0;
  for (const int32_t cluster : layout.tile_cluster) {
    for (const int32_t lines : layout.counts[cluster].lines) steps += RunSteps(lines);
  }
  return steps;
}

namespace {

// Hands out steps to warp after warp.
class Sharing {
 public:
  Sharing(const ColumnLayout& layout, StepFields fields, int64_t warps)
      : layout_(layout), fields_(fields), warps_(warps), last_(warps, Piece::kNone) {
    shares_.pieces.resize(warps);
    shares_.parts.resize(layout.tiles());
    for (int64_t tile = 0; tile < layout.tiles(); ++tile) {
      const LineCounts& counts = Counts(tile);
      int32_t steps = 0;
      for (int b = 0; b <= kMaxDepth; ++b) {
        steps += RunSteps(counts.lines[b]);
        all_bytes_ += RunSteps(counts.lines[b]) * StepBytes(b);
      }
      if (steps == 0) all_bytes_ += StepBytes(0);
    }
  }

  Shares Make() && {
    for (int64_t tile = 0; tile < layout_.tiles(); ++tile) ShareTile(tile);
    return std::move(shares_);
  }

 private:
  const LineCounts& Counts(int64_t tile) const {
    return layout_.counts[layout_.tile_cluster[tile]];
  }
  // What a step costs: the bytes that are read, and as many as its instructions are worth.
  int64_t StepBytes(int depth) const {
    constexpr int64_t kInstructions = 1024;
    return int64_t{depth} * RunQuarters(kStepLines, layout_.strips) * kWarp * 4 +
           fields_.words * 4 + kInstructions;
  }

  void ShareTile(int64_t tile) {
    const LineCounts& counts = Counts(tile);
    const auto first_part = static_cast<int32_t>(shares_.part_count);
    std::vector<int32_t> ends;  // the last piece of the tile of each of its warps
    int64_t word = layout_.tile_word[tile];
    int64_t step = layout_.first_position[layout_.tile_cluster[tile]] / kStepLines;
    const auto put = [&](int b, int64_t at_word, int64_t at_step, int32_t lines, int64_t bytes) {
      const int32_t index = Append({.word = at_word,
                                    .step = static_cast<int32_t>(at_step),
                                    .lines = lines,
                                    .depth = b,
                                    .tile = static_cast<int32_t>(tile),
                                    .part = Piece::kTileGoesOn});
      if (ends.empty() || ends_warp_ != warp_) ends.push_back(index);
      ends.back() = index;
      ends_warp_ = warp_;
      done_bytes_ += bytes;
      while (warp_ + 1 < warps_ && done_bytes_ * warps_ >= all_bytes_ * (warp_ + 1)) ++warp_;
    };
    for (int b = kMaxDepth; b >= 0; --b) {
      int32_t lines = counts.lines[b];
      const int64_t bytes = StepBytes(b);
      while (lines > 0) {
        // As many steps as bring the warp to its end, or over it.
        const int64_t until = CeilDiv(all_bytes_ * (warp_ + 1), warps_) - done_bytes_;
        const int64_t steps = std::clamp<int64_t>(CeilDiv(until, bytes), 1, RunSteps(lines));
        const auto taken = static_cast<int32_t>(std::min<int64_t>(lines, steps * kStepLines));
        put(b, word, step, taken, steps * bytes);
        word += RunWords(taken, b, layout_.strips);
        step += steps;
        lines -= taken;
      }
    }
    if (ends.empty()) put(0, word, step, 0, StepBytes(0));  // its rows of y are to be written too
    if (ends.size() == 1) {
      shares_.pieces[ends[0]].part = Piece::kWholeTile;
      return;
    }
    for (const int32_t end : ends) {
      shares_.pieces[end].part = static_cast<int32_t>(shares_.part_count++);
    }
    shares_.parts[tile] = {first_part, static_cast<int32_t>(ends.size())};
  }

  // As the last of the warp's pieces.
  int32_t Append(const Piece& piece) {
    int32_t& last = last_[warp_];
    if (last == Piece::kNone) {
      last = static_cast<int32_t>(warp_);
      shares_.pieces[last] = piece;
    } else {
      const auto index = static_cast<int32_t>(shares_.pieces.size());
      shares_.pieces[last].next = index;
      shares_.pieces.push_back(piece);
      last = index;
    }
    return last;
  }

  const ColumnLayout& layout_;
  const StepFields fields_;
  const int64_t warps_;
  std::vector<int32_t> last_;  // by warp, its last piece
  Shares shares_;
  int64_t warp_ = 0, ends_warp_ = 0;
  int64_t all_bytes_ = 0, done_bytes_ = 0;
};

}  // namespace

Shares ShareSteps(const ColumnLayout& layout, StepFields fields, int64_t warps) {
  return Sharing(layout, fields, warps).Make();
}

}  // namespace cvxq::cuda
