// The runs of a tile (packed_layout.h) in device code.
#ifndef CVXQ_KERNELS_CUDA_PACKED_RUNS_CUH_
#define CVXQ_KERNELS_CUDA_PACKED_RUNS_CUH_

#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/packed_columns.h"

namespace cvxq::cuda {

// The lines of one depth in a tile.
struct Run {
  int32_t lines = 0;
  int64_t position = 0;  // the first
  const uint32_t* words = nullptr;
};

// Goes through the runs of a tile from the deepest on; ends at depth 0.
class RunWalk {
 public:
  __device__ RunWalk(const ColumnsView& view, int64_t tile)
      : counts_(view.counts[view.tile_cluster[tile]]) {
    run_.position = view.first_position[view.tile_cluster[tile]];
    run_.words = view.words + view.tile_word[tile];
    run_.lines = counts_.lines[kMaxDepth];
  }

  __device__ const Run& run() const { return run_; }
  // From the run of `depth` to that of depth - 1.
  __device__ void Next(int depth, int strips) {
    run_.position += RunPositions(run_.lines);
    run_.words += RunWords(run_.lines, depth, strips);
    run_.lines = depth > 0 ? counts_.lines[depth - 1] : 0;
  }

 private:
  const LineCounts& counts_;
  Run run_;
};

// The words of the step that a position is in, and its fields.
__device__ inline const uint32_t* FieldsAt(const ColumnsView& view, int64_t position) {
  return view.field_words + position / kStepLines * view.fields.words;
}
__device__ inline int32_t LineAt(const ColumnsView& view, int64_t position) {
  const auto k = static_cast<int>(position % kStepLines);
  const uint32_t* fields = FieldsAt(view, position);
  return static_cast<int32_t>(view.fields.wide ? fields[k]
                                               : fields[k / 2] >> (k % 2 * 16) & 0xffff);
}
__device__ inline float ScaleAt(const ColumnsView& view, int64_t position) {
  return __uint_as_float(FieldsAt(view, position)[view.fields.scale_word + position % kStepLines]);
}
// 0 where there are no means.
__device__ inline float MeanAt(const ColumnsView& view, int64_t position) {
  if (!view.fields.means) return 0;
  return __uint_as_float(FieldsAt(view, position)[view.fields.mean_word + position % kStepLines]);
}

// The code of a position and a row of the tile.
__device__ inline uint32_t CodeAt(const Run& run, int64_t position, int row, int depth,
                                  int strips) {
  const CodePlace place = PlaceOfCode(position, row, strips);
  const uint32_t* words = run.words + WordOfQuarter(place.quarter, 0, place.lane, depth);
  if (!IsWhole(place.index, depth)) {
    uint32_t code = 0;
    for (int k = 0; k < depth; ++k) {
      const int bit = BitOfCode(place.index, k, depth);
      code |= (words[bit / 32 * kWarp] >> (bit % 32) & 1) << k;
    }
    return code;
  }
  const int bit = BitOfCode(place.index, 0, depth), shift = bit % 32;
  uint64_t two = words[bit / 32 * kWarp];
  if (shift + depth > 32) two |= uint64_t{words[bit / 32 * kWarp + kWarp]} << 32;
  return static_cast<uint32_t>(two >> shift) & ((1u << depth) - 1);
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_RUNS_CUH_
