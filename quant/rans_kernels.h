// The inner loop of decoding: 32 lanes, one table look-up each, row by row. Plain types only, so
// that files compiled for one instruction set may include this.
#ifndef CVXQ_QUANT_RANS_KERNELS_H_
#define CVXQ_QUANT_RANS_KERNELS_H_

#include <cstdint>

namespace cvxq {

inline constexpr int kRansLanes = 32;
inline constexpr uint32_t kRansLow = 1u << 16;  // states are at least this between symbols
inline constexpr int kRansSlots = 2048, kRansLastClass = 47;

// Rows of a block of columns, one column to a lane, and where its decoding stands.
struct RansCursor {
  // The statistics: EntropyTables::entries(), for each class a table of 2048 entries a grid.
  const uint32_t* entries;
  // The trellis as a walk over nodes of four bits, of which the lowest is 0: the next node is
  // next[node | parity of k]. In all nodes bit 11 tells the grid, as it stands in an index of
  // `entries`. State 0 is node 0.
  const uint32_t* next;  // [16]

  const int8_t* row_class;     // [rows]
  const int8_t* column_class;  // [lanes]
  int lanes;                   // of this block: columns that there are
  int64_t stride;              // between rows of codes
  int8_t* codes;               // [rows, stride]

  uint32_t state[kRansLanes];
  uint32_t node[kRansLanes];
  const uint16_t* words;  // the next word
  void* escapes;          // what take_escapes asks for
};

// Called with the lanes of `row` (a bit for each) that hold an escape, before their nodes are
// moved on: puts their codes in place and moves their nodes.
using TakeEscapes = void (*)(RansCursor& cursor, int64_t row, uint32_t lanes);

// Decodes rows begin .. end - 1. Reads at most `lanes` words for each row, and looks at 16 words
// past those that it takes.
using DecodeRows = void (*)(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes);

// Any number of lanes, on any CPU.
void DecodeRowsPlain(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes);
// 32 lanes.
void DecodeRowsAvx2(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes);
void DecodeRowsAvx512(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes);

}  // namespace cvxq

#endif  // CVXQ_QUANT_RANS_KERNELS_H_
