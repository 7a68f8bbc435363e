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

// Rows of a strip of a gradient [M, N] of floats that stays in the second-level cache: at most
// kStripBytes, a multiple of 128 where there are more, at least 128.
inline constexpr int64_t kStripBytes = 32 << 20;
int64_t StripRows(int64_t M, int64_t N);

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

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_GEOMETRY_H_
