// One tile of error feedback (quant/feedback.h): rows x columns that a block of threads rounds
// column after column, from the last place back.
//
// Everything is in places, in the order of work: `target`, `original` and `owed` are
// [row tiles, rows, stride] with each tile of rows and each line padded by places that hold
// nothing. Where rows feed each other, row tiles come in the order of work, the last places first
// (so that tiles that are worked at once lie at constant distances), rows within a tile as they
// are.
//
// What later columns owe (L_I) is in `target` before the tile begins, but for those of the tile
// itself; what later row tiles owe (L_O) is in `owed`. The first warp rounds a column (the rule's
// part); meanwhile the others take what the column before owes off the columns to come.
#ifndef CVXQ_KERNELS_CUDA_FEEDBACK_TILE_CUH_
#define CVXQ_KERNELS_CUDA_FEEDBACK_TILE_CUH_

#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/geometry.h"

namespace cvxq::cuda {

struct Tiles {
  int rows = 0, columns = 0;        // of a tile
  int64_t stride = 0;               // padded columns of W
  float* target = nullptr;          // W less what later columns owe
  const float* original = nullptr;  // W
  const float* owed = nullptr;      // nullptr: rows do not feed each other
  const float* lower = nullptr;     // L_I [stride, stride]; nullptr: columns do not
  const float* feed = nullptr;      // L_O [feed_stride, feed_stride] in the order of the rows above
  int64_t feed_stride = 0;
  const int32_t* row = nullptr;      // W's row of each row; -1: none
  const int32_t* rows_of = nullptr;  // rows of each row tile that hold something
  const int32_t* column = nullptr;   // W's column in each place
  int64_t width = 0;                 // W's columns: N
  // Of the tiles of this launch, [tiles, rows, columns]: -L_O^T E, and E.
  float* negative = nullptr;
  float* error = nullptr;
  uint16_t* codes = nullptr;  // [M, N]
  // Block b works row tile first_row + b and column tile first_column + b * column_step.
  int64_t first_row = 0, first_column = 0;
  int column_step = 0;
};

// A tile as its threads see it.
struct Tile {
  const Tiles& all;
  int64_t row_tile;
  int64_t r0, c0;     // its first row and column
  int rows, columns;  // that hold something
  int column;         // the one that is worked

  __device__ Tile(const Tiles& tiles, int64_t row_tile_, int64_t column_tile)
      : all(tiles),
        row_tile(row_tile_),
        r0(row_tile_ * tiles.rows),
        c0(column_tile * tiles.columns),
        rows(tiles.rows_of[row_tile_]),
        columns(
            static_cast<int>(tiles.width - c0 < tiles.columns ? tiles.width - c0 : tiles.columns)),
        column(columns) {}

  // Of W.
  __device__ int32_t Row(int r) const { return all.row[r0 + r]; }
  __device__ int32_t Column() const { return all.column[c0 + column]; }
  // L_O of later row r for row i.
  __device__ float Feed(int r, int i) const {
    return all.feed[(r0 + r) * all.feed_stride + r0 + i];
  }
};

inline constexpr int kTileThreads = 128;
// -L_O^T E and E of the places of this tile that hold nothing.
__device__ inline void ClearEmptyPlaces(const Tile& tile) {
  const int rows = tile.all.rows, columns = tile.all.columns;
  if (tile.rows == rows && tile.columns == columns) return;
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    if (i / columns < tile.rows && i % columns < tile.columns) continue;
    const int64_t at = int64_t{blockIdx.x} * rows * columns + i;
    tile.all.negative[at] = 0;
    if (tile.all.error != nullptr) tile.all.error[at] = 0;
  }
}

// targets[column][row] in shared memory.
__device__ inline void LoadTargets(const Tile& tile, float* targets) {
  const int line = TileLine(tile.all.rows);
  for (int i = threadIdx.x; i < tile.rows * tile.all.columns; i += blockDim.x) {
    const int r = i / tile.all.columns, c = i % tile.all.columns;
    if (c < tile.columns) {
      targets[c * line + r] = tile.all.target[(tile.r0 + r) * tile.all.stride + tile.c0 + c];
    }
  }
}

// Rule:
//   static int64_t SharedFloats(rows, ...)              of its own shared memory, 16-byte aligned
//   Start(tile, shared)                                 by all threads, before the first column
//   Prepare(tile, shared, r, target, original)          by one thread a row, before each column
//   Round(tile, shared, emit)                           by the first warp: each column
//       emit(r, target, rounded, code) for each row, once, by the lane of r % 32
template <typename Rule>
__global__ void __launch_bounds__(kTileThreads) TileKernel(const Tiles tiles, const Rule rule) {
  float* const targets = reinterpret_cast<float*>(DynamicShared());
  const int line = TileLine(tiles.rows);
  float* const carried = targets + tiles.columns * line;  // [2][rows]: L_O^T E of two columns
  float* const own = targets + TileFloats(tiles.rows, tiles.columns);
  Tile tile(tiles, tiles.first_row + blockIdx.x,
            tiles.first_column + int64_t{blockIdx.x} * tiles.column_step);
  ClearEmptyPlaces(tile);
  LoadTargets(tile, targets);
  rule.Start(tile, own);
  __syncthreads();
  for (int c = tile.columns - 1; c >= 0; --c) {
    tile.column = c;
    // What the column before owes, and how much of it is owed to each.
    const bool owes = tiles.lower != nullptr && c + 1 < tile.columns;
    const float* before = carried + (c + 1) % 2 * tiles.rows;
    const float* lower = owes ? tiles.lower + (tile.c0 + c + 1) * tiles.stride + tile.c0 : nullptr;
    for (int r = threadIdx.x; r < tile.rows; r += kTileThreads) {
      const int64_t at = (tile.r0 + r) * tiles.stride + tile.c0 + c;
      if (owes) targets[c * line + r] -= lower[c] * before[r];
      float target = targets[c * line + r];
      if (tiles.owed != nullptr) target -= tiles.owed[at];
      rule.Prepare(tile, own, r, target, tiles.original[at]);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
      rule.Round(tile, own, [&](int r, float target, float rounded, int code) {
        const float error = rounded - tiles.original[(tile.r0 + r) * tiles.stride + tile.c0 + c];
        const float sum = error + (targets[c * line + r] - target);
        const int64_t at = (int64_t{blockIdx.x} * tiles.rows + r) * tiles.columns + c;
        carried[c % 2 * tiles.rows + r] = sum;
        tiles.negative[at] = -sum;
        if (tiles.error != nullptr) tiles.error[at] = error;
        tiles.codes[tile.Row(r) * tiles.width + tile.Column()] = static_cast<uint16_t>(code);
      });
    } else if (owes) {
      for (int j = 0; j < c; ++j) {
        const float l = lower[j];
        for (int r = threadIdx.x - kWarp; r < tile.rows; r += kTileThreads - kWarp) {
          targets[j * line + r] -= l * before[r];
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_FEEDBACK_TILE_CUH_
