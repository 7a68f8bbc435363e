// Launch geometry: how many blocks of how many threads an operation takes. Pure functions of the
// shapes, so that results do not depend on the card.
#ifndef CVXQ_KERNELS_CUDA_GEOMETRY_H_
#define CVXQ_KERNELS_CUDA_GEOMETRY_H_

#include <cstdint>

namespace cvxq::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kBlockThreads = 256;
// Limits of every card of compute capability 8.0 and later.
inline constexpr int64_t kMaxBlocks = 0x7fffffff;  // along x; along y and z 65,535
inline constexpr int64_t kMaxBlocksY = 65535;

struct Grid {
  int64_t x = 1, y = 1, z = 1;  // blocks
  int threads = kBlockThreads;  // of a block
  int64_t shared_bytes = 0;     // dynamic shared memory of a block
  bool early = false;  // may start before earlier kernels are done, for which it waits itself

  bool empty() const { return x == 0 || y == 0 || z == 0; }
  // Whether a card can be asked for it.
  bool Launchable() const;
};

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One thread for each of `count` elements; beyond kElementBlocks blocks, threads take several in
// strides of the grid.
Grid ElementGrid(int64_t count);
inline constexpr int64_t kElementBlocks = 1 << 16;

// The threads that share one row of `d` elements in row-wise operations: a warp for short rows (so
// that a block has eight of them), a block for long ones.
constexpr int RowThreads(int64_t d) { return d <= 1024 ? kWarp : kBlockThreads; }
Grid RowGrid(int64_t rows, int64_t d);

// Column sums over n rows are made in pieces of kColumnRows rows, by blocks of kColumnTile columns.
inline constexpr int64_t kColumnTile = 32, kColumnRows = 256;
Grid ColumnGrid(int64_t n, int64_t columns);

// Rows of a strip of a matrix [M, N] of floats that stays in the second-level cache: at most
// kStripBytes, a multiple of 128 where there are more, at least 128. (Of gradients 16.5 MiB, one
// wave of tiles, were 2 % slower on an H200.)
inline constexpr int64_t kStripBytes = 32 << 20;
int64_t StripRows(int64_t M, int64_t N);

// Warps of a block that share the rows of one of `groups` groups: a power of two that leaves each
// eight rows or more, if the groups are alike.
constexpr int GroupWarps(int64_t rows, int64_t groups) {
  int warps = kBlockThreads / kWarp;
  while (warps > 1 && rows < groups * warps * 8) warps /= 2;
  return warps;
}

// A run of keys or queries [begin, end).
struct Span {
  int begin = 0, end = 0;
};
// The keys that any query at positions [first, last] sees: (position - window, position] each.
constexpr Span KeysSeen(int first, int last, int window) {
  return {first + 1 > window ? first + 1 - window : 0, last + 1};
}
// The queries of T, the first at position 0, that see any of the keys [first, last].
constexpr Span QueriesSeeing(int first, int last, int window, int T) {
  return {first, T - last < window ? T : last + window};
}

// The length of rows for which attention on tensor cores has kernels that take head_dim; 0 where
// there is none.
constexpr int PaddedHeadDim(int head_dim) {
  if (head_dim % 2 != 0 || head_dim > 256) return 0;
  return head_dim <= 64 ? 64 : head_dim <= 96 ? 96 : head_dim <= 128 ? 128 : 256;
}
// Tokens of a sequence are padded to whole tiles.
inline constexpr int kTokenTile = 128;
constexpr int PaddedTokens(int T) { return static_cast<int>(CeilDiv(T, kTokenTile)) * kTokenTile; }

// --- error feedback (feedback_tile.cuh) ---

// Floats between the columns of a tile's targets in shared memory: one more than a multiple of 32,
// so that neither way through it meets a bank twice. And of all that a tile has there but the
// rule's own.
constexpr int TileLine(int rows) { return rows + 1; }
constexpr int64_t TileFloats(int rows, int columns) {
  return CeilDiv(int64_t{columns} * TileLine(rows) + 2 * rows, 4) * 4;
}

// The tiles of one antidiagonal: (first_row + i, first_column + i) for i < count. Rows are worked
// from the first tile on, columns from the last back; a tile comes after those of earlier rows in
// its column and of later columns in its rows.
struct Wave {
  int64_t first_row = 0, first_column = 0, count = 0;
};
constexpr int64_t Waves(int64_t row_tiles, int64_t column_tiles) {
  return row_tiles + column_tiles - 1;
}
Wave WaveOf(int64_t wave, int64_t row_tiles, int64_t column_tiles);

// Prices of one class and grid: two that are never paid, one for each magnitude, and as many again
// as the search reaches beyond.
inline constexpr int kTrellisMagnitudes = 64, kTrellisPrices = 2 + kTrellisMagnitudes + 4;
inline constexpr int64_t kTrellisPlaceFloats = 4 + 4 + 16 + 2 + 1;  // of each row, one path for all
// Floats of a tile's L_O where row r has what 8 * (r / 32 + 1) blocks of four rows before it take.
constexpr int64_t TrellisFeedFloats(int rows) {
  const int64_t parts = CeilDiv(rows, 32);
  return 512 * parts * (parts + 1);
}
// The rule's own shared memory.
constexpr int64_t TrellisSharedFloats(int rows, int classes, bool feeds) {
  return CeilDiv(int64_t{classes} * 2 * kTrellisPrices, 4) * 4 +
         kTrellisPlaceFloats * CeilDiv(rows, 4) * 4 + (feeds ? TrellisFeedFloats(rows) : 0);
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_GEOMETRY_H_
