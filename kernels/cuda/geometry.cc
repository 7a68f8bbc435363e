#include "kernels/cuda/geometry.h"

#include <algorithm>

namespace cvxq::cuda {

bool Grid::Launchable() const {
  return x >= 1 && y >= 1 && z >= 1 && x <= kMaxBlocks && y <= kMaxBlocksY && z <= kMaxBlocksY &&
         threads >= 1 && threads <= 1024 && threads % kWarp == 0 && shared_bytes >= 0;
}

Grid ElementGrid(int64_t count) {
  return {.x = std::min(CeilDiv(count, kBlockThreads), kElementBlocks)};
}

Grid RowGrid(int64_t rows, int64_t d) {
  return {.x = CeilDiv(rows, kBlockThreads / RowThreads(d))};
}

Grid ColumnGrid(int64_t n, int64_t columns) {
  return {.x = CeilDiv(columns, kColumnTile), .y = CeilDiv(n, kColumnRows)};
}

int64_t StripRows(int64_t M, int64_t N, int64_t bytes) {
  const int64_t rows = bytes / (4 * std::max<int64_t>(N, 1)) / 128 * 128;
  return std::min(M, std::max<int64_t>(rows, 128));
}

Wave WaveOf(int64_t wave, int64_t row_tiles, int64_t column_tiles) {
  const int64_t first_row = std::max<int64_t>(0, wave - (column_tiles - 1));
  const int64_t first_column = std::max<int64_t>(0, column_tiles - 1 - wave);
  return {first_row, first_column, std::min(row_tiles - first_row, column_tiles - first_column)};
}

}  // namespace cvxq::cuda
