// Packed matrices in the memory of a GPU: how they are laid out, on the host, at import.
//
// kColumns. The rows of a cluster are cut in *tiles* of `strips` strips of 16 rows, the last filled
// up with rows of code 0. Its lines (columns of W) are sorted by depth, deepest first, equal depths
// by index: one *run* for each depth b. The place of a line in its run is its *position*. Tensor
// cores multiply 16 rows by 16 lines at a time, so that a lane of a warp has 8 codes of each such
// product; four products are a *quarter*, b words of 32 bits for each lane. With S strips:
//
//                lines     rows
//   quarter      64 / S    16 S
//   step           64      16 S     S quarters, for which x is brought to the lanes at once
//
// The codes of a run are its quarters, one behind the other: word i of a lane and quarter q is
// (q * b + i) * 32 + lane, and the b words of a lane are a bit stream, the first code lowest:
//   4 products of a quarter, the strip running fastest, then the 16 lines of a product
//   2 halves of 8 lines, 2 halves of 8 rows, 2 neighbouring lines: 8 codes of b bits
//
// kRows. Each row of W is by itself: for each cluster of columns its codes, a dense stream of b
// bits each in the order of members, in whole words of 32 bits.
#ifndef CVXQ_KERNELS_CUDA_PACKED_LAYOUT_H_
#define CVXQ_KERNELS_CUDA_PACKED_LAYOUT_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/cuda/geometry.h"
#include "kernels/packed_matrix.h"

namespace cvxq::cuda {

inline constexpr int kStripRows = 16;
inline constexpr int kStepLines = 64;
inline constexpr int kMaxStrips = 4;
inline constexpr int kPackedWarps = kBlockThreads / kWarp;  // of a block of kBlockThreads

constexpr int QuarterLines(int strips) { return kStepLines / strips; }
// Of a run of `lines` lines.
constexpr int32_t RunQuarters(int32_t lines, int strips) {
  return lines / QuarterLines(strips) + (lines % QuarterLines(strips) != 0);
}
constexpr int32_t RunSteps(int32_t lines) { return lines / kStepLines + (lines % kStepLines != 0); }
constexpr int64_t RunWords(int32_t lines, int depth, int strips) {
  return int64_t{RunQuarters(lines, strips)} * depth * kWarp;
}
// Whole steps of positions, so that they can be read without looking.
constexpr int64_t RunPositions(int64_t lines) { return CeilDiv(lines, kStepLines) * kStepLines; }

// Where a run's code of a position and a row of the tile stands.
struct CodePlace {
  int64_t quarter = 0;  // of the run
  int lane = 0;
  int bit = 0;  // of the lane's words of that quarter
};
constexpr CodePlace PlaceOfCode(int64_t position, int row, int depth, int strips) {
  const int of_step = static_cast<int>(position % kStepLines);
  const int product = of_step / kStripRows, line = of_step % kStripRows;  // 16 lines of a step
  const int products = 4 / strips;                                        // of a strip in a quarter
  const int of_quarter = product % products * strips + row / kStripRows;
  const int code = 4 * (line / 8) + 2 * (row / 8 % 2) + line % 2;
  return {.quarter = position / kStepLines * strips + product / products,
          .lane = 4 * (row % 8) + line % 8 / 2,
          .bit = (8 * of_quarter + code) * depth};
}
// The index in a run of word i of a lane and quarter.
constexpr int64_t WordOfQuarter(int64_t quarter, int i, int lane, int depth) {
  return (quarter * depth + i) * kWarp + lane;
}

// Lines of each depth, by depth; those of depth 0 are not counted where there are no means.
struct LineCounts {
  int32_t lines[kMaxDepth + 1] = {};
};

// Strips of a tile: as few rows to fill up as possible; among those the most strips.
int StripsFor(int64_t rows, int64_t cluster_size);

struct ColumnLayout {
  int strips = 1;
  int64_t cluster_tiles = 0;            // tiles of each cluster but the last, which may have fewer
  std::vector<int32_t> rows;            // [tiles, 16 * strips] rows of W; -1 fills up
  std::vector<int32_t> tile_cluster;    // [tiles]
  std::vector<int64_t> tile_word;       // [tiles] the first word of each
  std::vector<LineCounts> counts;       // [clusters]
  std::vector<int64_t> first_position;  // [clusters]
  std::vector<int32_t> line;            // by position: the column of W; 0 fills up
  std::vector<float> scale, mean;       // by position; mean may be empty
  std::vector<uint32_t> words;

  int tile_rows() const { return kStripRows * strips; }
  int64_t tiles() const { return static_cast<int64_t>(tile_cluster.size()); }
};
// Of a matrix with partition kColumns.
ColumnLayout LayOutColumns(const PackedMatrix& matrix, int strips);

// What is known of the lines of one step of positions, one behind the other: their columns of W (16
// bits each where `wide` is not set, else 32), scales, and means if there are any.
struct StepFields {
  bool wide = false, means = false;

  constexpr int scale_word() const { return wide ? kStepLines : kStepLines / 2; }
  constexpr int mean_word() const { return scale_word() + kStepLines; }
  constexpr int words() const { return mean_word() + (means ? kStepLines : 0); }
};
// StepFields of all steps.
std::vector<uint32_t> JoinFields(const ColumnLayout& layout, StepFields fields);

struct RowLayout {
  std::vector<int64_t> row_word;     // [M] the first word of each row
  std::vector<uint32_t> group_word;  // [M, clusters] from there
  std::vector<uint8_t> depth;        // [M, clusters]
  std::vector<float> scale, mean;    // [M, clusters]; mean may be empty
  std::vector<uint32_t> words;
};
// Of a matrix with partition kRows.
RowLayout LayOutRows(const PackedMatrix& matrix);

// Tables one behind the other: that of depth b begins at (1 << b) - 2; zeros where there is none.
inline constexpr int kTableValues = (2 << kMaxDepth) - 2;
constexpr int FirstOfTable(int depth) { return (1 << depth) - 2; }
std::vector<float> JoinTables(const PackedMatrix& matrix);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_LAYOUT_H_
