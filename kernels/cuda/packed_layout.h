// Packed matrices in the memory of a GPU: how they are laid out, on the host, at import.
//
// kColumns. The rows of a cluster are cut in *tiles* of `strips` strips of 16 rows, the last filled
// up with rows of code 0. Its lines (columns of W) are sorted by depth, deepest first, equal depths
// by index: one *run* for each depth b. The place of a line in its run is its *position*. Tensor
// cores multiply 16 rows by 32 lines at a time, so that a lane of a warp has 16 codes of each such
// product; two products are a *quarter*, b words of 32 bits for each lane. With S strips:
//
//                lines              rows
//   quarter      32 (S = 1: 64)     32 (S = 1: 16)
//   step         128                16 S    2 S quarters, whose codes a warp has at once
//
// The codes of a run are its quarters, one behind the other: word i of a lane and quarter q is
// (q * b + i) * 32 + lane. How a lane's 32 codes stand in its words, see PlaceOfCode and BitOfCode.
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
inline constexpr int kProductLines = 32;
inline constexpr int kStepLines = 128;
inline constexpr int kMaxStrips = 4;
inline constexpr int kPackedWarps = kBlockThreads / kWarp;  // of a block of kBlockThreads

// Quarters are whole only for so many lines, GroupQuarters of them.
constexpr int GroupLines(int strips) { return strips == 1 ? 2 * kProductLines : kProductLines; }
constexpr int GroupQuarters(int strips) { return strips == 4 ? 2 : 1; }
// Of a run of `lines` lines.
constexpr int32_t RunGroups(int32_t lines, int strips) {
  return lines / GroupLines(strips) + (lines % GroupLines(strips) != 0);
}
constexpr int32_t RunQuarters(int32_t lines, int strips) {
  return RunGroups(lines, strips) * GroupQuarters(strips);
}
constexpr int32_t RunSteps(int32_t lines) { return lines / kStepLines + (lines % kStepLines != 0); }
constexpr int64_t RunWords(int32_t lines, int depth, int strips) {
  return int64_t{RunQuarters(lines, strips)} * depth * kWarp;
}
// Whole steps of positions, so that they can be read without looking.
constexpr int64_t RunPositions(int64_t lines) { return CeilDiv(lines, kStepLines) * kStepLines; }

// Where a run's code of a position and a row of the tile stands: in a product, lane 4 g + t has of
// rows g and g + 8 the lines 4 t to 4 t + 3 and 16 + 4 t to 16 + 4 t + 3 (MmaInt8), four
// neighbouring lines side by side.
struct CodePlace {
  int64_t quarter = 0;  // of the run
  int lane = 0;
  int index = 0;  // of the lane's 32 codes of that quarter
};
constexpr CodePlace PlaceOfCode(int64_t position, int row, int strips) {
  const auto line = static_cast<int>(position % kProductLines);
  const int64_t lines_before = position / kProductLines;
  const int strip = row / kStripRows, of_strip = row % kStripRows;
  const int four = line / 16 * 2 + of_strip / 8;
  const int product = static_cast<int>(strips == 1 ? lines_before % 2 : strip % 2);
  return {.quarter = strips == 1   ? lines_before / 2
                     : strips == 2 ? lines_before
                                   : lines_before * 2 + strip / 2,
          .lane = 4 * (of_strip % 8) + line % 16 / 4,
          .index = 16 * product + 4 * four + line % 4};
}
// Bit k of a lane's code `index` in its b words, as a bit stream. Codes of up to four bits are
// those of a half-byte each, so that four of them choose bytes at once: code i is in half-byte i %
// 8 of *octet* i / 8. An octet's codes of 4 bits fill a word, two octets of 2 bits or four of 1 bit
// share one, and with 3 bits the half-bytes' fourth bits of words 0 to 2 are the fourth octet.
// Deeper codes follow each other.
inline constexpr int kMaxOctetDepth = 4;
constexpr int BitOfCode(int index, int k, int depth) {
  const int octet = index / 8, half_byte = 4 * (index % 8);
  switch (depth) {
    case 1:
      return half_byte + octet;
    case 2:
      return 32 * (octet / 2) + half_byte + 2 * (octet % 2) + k;
    case 3:
      return octet < 3 ? 32 * octet + half_byte + k : 32 * k + half_byte + 3;
    case 4:
      return 32 * octet + half_byte + k;
    default:
      return index * depth + k;
  }
}
// Whether a code's bits follow each other.
constexpr bool IsWhole(int index, int depth) { return depth != 3 || index < 24; }

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
inline constexpr int64_t kMaxNarrowLines = 1 << 16;
struct StepFields {
  constexpr explicit StepFields(bool wide_ = false, bool means_ = false)
      : wide(wide_),
        means(means_),
        scale_word(wide ? kStepLines : kStepLines / 2),
        mean_word(scale_word + kStepLines),
        words(mean_word + (means ? kStepLines : 0)) {}

  bool wide, means;
  int scale_word, mean_word;  // where scales and means begin
  int words;                  // of a step
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

// The values of tables in 16 bits: of BF16, or integers, of which a value is unit[depth] times as
// much (so that each is off by at most 2^-16 of its table's largest).
struct Levels {
  // The low and high bytes of a table of up to 16 values, in order.
  struct Octets {
    uint32_t low[4] = {}, high[4] = {};
  };
  std::vector<uint16_t> values;  // [kTableValues]
  Octets octets[kMaxOctetDepth + 1];
  float unit[kMaxDepth + 1] = {};
};
Levels LevelsInBF16(const PackedMatrix& matrix);
Levels LevelsInIntegers(const PackedMatrix& matrix);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_LAYOUT_H_
