// Integers to words and back: interleaved range ANS (J. Duda 2013) with the statistics of
// entropy_tables.h. Each lane has a state of 32 bits, all share one stream of 16-bit words.
//
// A matrix is cut into blocks of `lanes` columns and chunks of a few blocks, about a million
// weights, which are decoded independently. In a chunk: block after block, in it row after row, in
// it lane after lane (lane l has column l of the block; in the last block there may be fewer),
//
//   e = entry of slot x mod 2048 in the table of (row class, column class, grid of the trellis)
//   k = symbol of e,   x = frequency * (x div 2048) + place within the symbol's slots
//   if x < 65536:      x = x * 65536 + next word
//
// with the states carried over from block to block. The words begin with the first state of each
// lane, high word first. At the end of a chunk each state is 65536 + 16 bits of the encoder's
// choice: the *seeds*, which carry bytes of something else for nothing.
//
// An escape's k stands in a stream of bytes of its own, in the order of decoding: 2 (|k| - A - 1),
// plus 1 if k < 0, in groups of 7 bits from the lowest, with 128 added to all but the last.
#ifndef CVXQ_QUANT_RANS_H_
#define CVXQ_QUANT_RANS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/scaled_matrix.h"
#include "quant/entropy_tables.h"
#include "quant/rans_kernels.h"
#include "quant/scaled_codes.h"

namespace cvxq {

// How a matrix is cut, by its shape alone.
struct RansLayout {
  RansLayout(int64_t rows, int64_t columns);
  int lanes;              // 32, or 2 for small or narrow matrices
  int64_t chunk_columns;  // of all chunks but the last
  int64_t chunks;
  int64_t rows, columns;
  int64_t first_column(int64_t chunk) const { return chunk * chunk_columns; }
  int64_t width(int64_t chunk) const;
};

struct RansChunk {
  std::vector<uint16_t> words;
  std::vector<uint8_t> escapes;
};

// seeds: [lanes].
RansChunk EncodeChunk(const ScaledCodes& codes, const EntropyTables& tables,
                      const RansLayout& layout, int64_t chunk, std::span<const uint16_t> seeds);

struct RansChunkSize {
  int64_t words = 0, escapes = 0;
};
RansChunkSize EncodedSize(const ScaledCodes& codes, const EntropyTables& tables,
                          const RansLayout& layout, int64_t chunk, std::span<const uint16_t> seeds);

// The parts of a matrix that decoding needs.
struct RansContext {
  const EntropyTables& tables;
  const RansLayout& layout;
  int64_t trellis_rows;
  std::span<const int8_t> row_class, column_class;
};

// `words` is little-endian and may stand anywhere; `codes` is [rows, columns] of the whole matrix,
// of which the chunk's columns are written. Writes the seeds [lanes]; appends outliers in the order
// of decoding. `decode` is for blocks of 32 columns. kDataLoss ("has ...") unless the chunk is what
// EncodeChunk writes for these codes and seeds.
Status DecodeChunk(const RansContext& context, int64_t chunk, std::span<const uint8_t> words,
                   std::span<const uint8_t> escapes, DecodeRows decode, int8_t* codes,
                   std::vector<ScaledOutlier>& outliers, std::span<uint16_t> seeds);

// What this CPU can run, the plain one first, the fastest last.
std::vector<DecodeRows> DecodersHere();

}  // namespace cvxq

#endif  // CVXQ_QUANT_RANS_H_
