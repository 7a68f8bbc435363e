// How the product with a packed matrix is shared among warps, on the host, at import.
//
// What a warp multiplies is a list of *pieces*: whole steps of one run of one tile
// (packed_layout.h). All warps get about as much to read, whatever the shape and the depths; where
// several have pieces of a tile, each leaves its sums as a *part*, and whoever is last adds the
// parts in order.
#ifndef CVXQ_KERNELS_CUDA_PACKED_SHARES_H_
#define CVXQ_KERNELS_CUDA_PACKED_SHARES_H_

#include <cstdint>
#include <vector>

#include "kernels/cuda/packed_layout.h"

namespace cvxq::cuda {

// Steps of one run of one tile, for one warp. 32 bytes, so that a warp reads it at once.
struct Piece {
  static constexpr int32_t kWholeTile = -1, kTileGoesOn = -2, kNone = -1;

  int64_t word = 0;           // the first of ColumnLayout::words
  int32_t step = 0;           // of all positions, the first
  int32_t lines = 0;          // how many; 0 where a tile has no lines at all
  int32_t depth = 0;          // of the run
  int32_t tile = kNone;       // kNone: the warp has no work
  int32_t part = kWholeTile;  // where its warp's sums of the tile go once it is done
  int32_t next = kNone;       // the warp's next piece
};
struct TileParts {
  int32_t first = 0, count = 0;
};
struct Shares {
  std::vector<Piece> pieces;     // the first `warps` are those with which the warps begin
  std::vector<TileParts> parts;  // by tile; none where one warp has it all
  int64_t part_count = 0;
};
// The steps of all tiles, in order, shared among warps so that each has about as many bytes.
Shares ShareSteps(const ColumnLayout& layout, StepFields fields, int64_t warps);
int64_t StepCount(const ColumnLayout& layout);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_SHARES_H_
