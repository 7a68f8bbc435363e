#include "quant/rans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "kernels/cpu/cpu_features.h"
#include "quant/trellis.h"

namespace cvxq {
namespace {

constexpr int64_t kChunkWeights = 1 << 20;
constexpr int64_t kSmall = 1 << 17;  // weights below which 32 states would cost too much
constexpr int kSmallLanes = 2;
constexpr int kCheckedRows = 64;  // decoded between checks of the end of the words
constexpr int kLargestInteger = 32767;

static_assert(kRansSlots == kFrequencySum && kRansLastClass == kSymbolClasses - 1);
static_assert(std::endian::native == std::endian::little);  // words are copied as they stand

// A block to be encoded, and the tables in force in it: the trellis runs forward, the encoder back.
class Block {
 public:
  Block(const ScaledCodes& codes, int64_t first_column, int lanes)
      : rows_(codes.rows),
        lanes_(lanes),
        columns_(codes.columns),
        table_(codes.rows * lanes),
        integers_(codes.integers.data() + first_column) {
    std::array<uint8_t, kRansLanes> state{};
    for (int64_t r = 0; r < rows_; ++r) {
      if (codes.TrellisStarts(r)) state.fill(0);
      const int row_class = codes.row_class[r];
      for (int l = 0; l < lanes; ++l) {
        const int symbol_class = SymbolClass(row_class, codes.column_class[first_column + l]);
        table_[r * lanes + l] =
            static_cast<uint8_t>(symbol_class * kTrellisGrids + kTrellis.grid[state[l]]);
        state[l] = static_cast<uint8_t>(kTrellis.Next(state[l], integer(r, l)));
      }
    }
  }

  int64_t rows() const { return rows_; }
  int lanes() const { return lanes_; }
  int table(int64_t r, int l) const { return table_[r * lanes_ + l]; }
  int integer(int64_t r, int l) const { return integers_[r * columns_ + l]; }

 private:
  const int64_t rows_;
  const int lanes_;
  const int64_t columns_;
  std::vector<uint8_t> table_;
  const int16_t* integers_;
};
static_assert(kTrellisGrids * kSymbolClasses <= 256);

// Where encoded things go, the last one first: kept, or only counted.
struct Keep {
  std::vector<uint16_t> words;
  std::vector<uint8_t> escapes;
  void Word(uint32_t word) { words.push_back(static_cast<uint16_t>(word)); }
  void Escape(uint32_t byte) { escapes.push_back(static_cast<uint8_t>(byte)); }
};
struct Count {
  RansChunkSize size;
  void Word(uint32_t) { ++size.words; }
  void Escape(uint32_t) { ++size.escapes; }
};

// An escape's value, its last byte first.
template <typename Sink>
void PutEscape(int k, int largest, Sink& sink) {
  const uint32_t value = 2 * static_cast<uint32_t>(std::abs(k) - largest - 1) + (k < 0 ? 1 : 0);
  int shift = 0;
  while (value >> shift >= 128) shift += 7;
  sink.Escape(value >> shift);
  while (shift > 0) sink.Escape((value >> (shift -= 7)) % 128 + 128);
}

template <typename Sink>
void PutBlock(const Block& block, const EntropyTables& tables, uint32_t* state, Sink& sink) {
  for (int64_t r = block.rows() - 1; r >= 0; --r) {
    for (int l = block.lanes() - 1; l >= 0; --l) {
      const int table = block.table(r, l), k = block.integer(r, l);
      int symbol = static_cast<uint8_t>(k);
      if (std::abs(k) > tables.largest(table)) {
        symbol = EntropyTables::kEscape;
        PutEscape(k, tables.largest(table), sink);
      }
      const uint32_t place = tables.symbols(table)[symbol];
      const uint32_t frequency = place & 0xffff;
      uint32_t x = state[l];
      if (x >= frequency << (32 - kFrequencyBits)) {
        sink.Word(x & 0xffff);
        x >>= 16;
      }
      state[l] = (x / frequency << kFrequencyBits) + x % frequency + (place >> 16);
    }
  }
}

// All from the last to the first, as the decoder takes it.
template <typename Sink>
void Encode(const ScaledCodes& codes, const EntropyTables& tables, const RansLayout& layout,
            int64_t chunk, std::span<const uint16_t> seeds, Sink& sink) {
  const int64_t begin = layout.first_column(chunk), end = begin + layout.width(chunk);
  uint32_t state[kRansLanes];
  for (int l = 0; l < layout.lanes; ++l) state[l] = kRansLow + seeds[l];
  for (int64_t column = begin + (end - begin - 1) / layout.lanes * layout.lanes; column >= begin;
       column -= layout.lanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(layout.lanes, end - column));
    PutBlock(Block(codes, column, lanes), tables, state, sink);
  }
  for (int l = layout.lanes - 1; l >= 0; --l) {
    sink.Word(state[l] & 0xffff);
    sink.Word(state[l] >> 16);
  }
}

// RansCursor::next.
constexpr std::array<uint32_t, 2 * kTrellisStates> kNextNode = [] {
  const auto node = [](int state) {
    return static_cast<uint32_t>(2 * state + (kTrellis.grid[state] << kFrequencyBits));
  };
  std::array<uint32_t, 2 * kTrellisStates> next{};
  for (int s = 0; s < kTrellisStates; ++s) {
    for (const int parity : {0, 1}) next[2 * s + parity] = node(kTrellis.next[s][parity]);
  }
  return next;
}();

// Reads escapes for the kernels.
struct EscapeReader {
  const EntropyTables& tables;
  std::span<const uint8_t> bytes;
  int64_t first_column;  // of the block
  std::vector<ScaledOutlier>& outliers;
  bool broken = false;

  // Beyond the largest magnitude of the table, with the sign. 0 if there is none in range.
  int Take(int largest) {
    uint32_t value = 0;
    for (int shift = 0; shift < 21; shift += 7) {
      if (bytes.empty()) break;
      const uint8_t byte = bytes[0];
      bytes = bytes.subspan(1);
      value |= (byte & 127u) << shift;
      if (byte >= 128) continue;
      const int magnitude = static_cast<int>(value / 2) + largest + 1;
      if (magnitude > kLargestInteger || (byte == 0 && shift > 0)) break;
      return value % 2 == 0 ? magnitude : -magnitude;
    }
    broken = true;
    return 0;
  }
};

void ReadEscapes(RansCursor& cursor, int64_t row, uint32_t lanes) {
  EscapeReader& reader = *static_cast<EscapeReader*>(cursor.escapes);
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = std::countr_zero(lanes);
    uint32_t& node = cursor.node[lane];
    const int grid = static_cast<int>(node >> kFrequencyBits);
    const int symbol_class = SymbolClass(cursor.row_class[row], cursor.column_class[lane]);
    const int k = reader.Take(reader.tables.largest(symbol_class * kTrellisGrids + grid));
    const int code = 2 * k - grid * ((k > 0) - (k < 0));
    const bool fits = std::abs(code) <= kMaxCode;
    cursor.codes[row * cursor.stride + lane] = fits ? static_cast<int8_t>(code) : int8_t{0};
    if (!fits) {
      reader.outliers.push_back(
          {static_cast<int32_t>(row), static_cast<int32_t>(reader.first_column + lane), code});
    }
    node = cursor.next[(node & 15) | (k & 1)];
  }
}

}  // namespace

RansLayout::RansLayout(int64_t rows, int64_t columns) : rows(rows), columns(columns) {
  lanes = rows * columns < kSmall || columns < kRansLanes ? kSmallLanes : kRansLanes;
  chunk_columns = std::max<int64_t>(1, kChunkWeights / (rows * lanes)) * lanes;
  chunks = (columns + chunk_columns - 1) / chunk_columns;
}

int64_t RansLayout::width(int64_t chunk) const {
  return std::min(chunk_columns, columns - first_column(chunk));
}

RansChunk EncodeChunk(const ScaledCodes& codes, const EntropyTables& tables,
                      const RansLayout& layout, int64_t chunk, std::span<const uint16_t> seeds) {
  Keep kept;
  Encode(codes, tables, layout, chunk, seeds, kept);
  std::reverse(kept.words.begin(), kept.words.end());
  std::reverse(kept.escapes.begin(), kept.escapes.end());
  return {std::move(kept.words), std::move(kept.escapes)};
}

RansChunkSize EncodedSize(const ScaledCodes& codes, const EntropyTables& tables,
                          const RansLayout& layout, int64_t chunk,
                          std::span<const uint16_t> seeds) {
  Count count;
  Encode(codes, tables, layout, chunk, seeds, count);
  return count.size;
}

void DecodeRowsPlain(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes) {
  const uint32_t* entries = cursor.entries;
  for (int64_t r = begin; r < end; ++r) {
    const int row_class = cursor.row_class[r];
    int8_t* codes = cursor.codes + r * cursor.stride;
    uint32_t escaped = 0;
    for (int l = 0; l < cursor.lanes; ++l) {
      const int table = SymbolClass(row_class, cursor.column_class[l]) * kTrellisGrids;
      const uint32_t node = cursor.node[l];
      uint32_t x = cursor.state[l];
      const uint32_t e =
          entries[(table << kFrequencyBits) + (node & kFrequencySum) + (x & (kFrequencySum - 1))];
      x = (e >> 21) * (x >> kFrequencyBits) + (e & (kFrequencySum - 1));
      if (x < kRansLow) x = x << 16 | *cursor.words++;
      cursor.state[l] = x;
      codes[l] = static_cast<int8_t>(e >> kFrequencyBits);
      if (codes[l] == -EntropyTables::kEscape) {
        escaped |= 1u << l;
      } else {
        cursor.node[l] = cursor.next[(node & 15) | (e >> 20 & 1)];
      }
    }
    if (escaped != 0) escapes(cursor, r, escaped);
  }
}

Status DecodeChunk(const RansContext& context, int64_t chunk, std::span<const uint8_t> words,
                   std::span<const uint8_t> escapes, DecodeRows decode, int8_t* codes,
                   std::vector<ScaledOutlier>& outliers, std::span<uint16_t> seeds) {
  const RansLayout& layout = context.layout;
  const int lanes = layout.lanes;
  const size_t count = words.size() / 2;
  if (count < 2 * static_cast<size_t>(lanes)) return absl::DataLossError("has too few words");

  // A copy with room to read on until the next check.
  const auto copy = std::make_unique_for_overwrite<uint16_t[]>(count + kCheckedRows * lanes + 16);
  std::memcpy(copy.get(), words.data(), 2 * count);
  std::fill_n(copy.get() + count, kCheckedRows * lanes + 16, uint16_t{0});
  const uint16_t* const end = copy.get() + count;

  EscapeReader reader{context.tables, escapes, 0, outliers};
  RansCursor cursor{.entries = context.tables.entries(),
                    .next = kNextNode.data(),
                    .row_class = context.row_class.data(),
                    .stride = lanes,
                    .words = copy.get(),
                    .escapes = &reader};
  for (int l = 0; l < lanes; ++l) {
    cursor.state[l] = static_cast<uint32_t>(cursor.words[0]) << 16 | cursor.words[1];
    cursor.words += 2;
    if (cursor.state[l] < kRansLow) return absl::DataLossError("begins with a wrong state");
  }

  // Block by block into a buffer, since columns of a row-major matrix are far apart.
  const int64_t trellis_rows = context.trellis_rows > 0 ? context.trellis_rows : layout.rows;
  const int64_t begin = layout.first_column(chunk), width = layout.width(chunk);
  const int64_t blocks = (width + lanes - 1) / lanes, block_codes = layout.rows * lanes;
  const auto buffer = std::make_unique_for_overwrite<int8_t[]>(blocks * block_codes);
  for (int64_t b = 0; b < blocks; ++b) {
    reader.first_column = begin + b * lanes;
    cursor.column_class = context.column_class.data() + reader.first_column;
    cursor.lanes = static_cast<int>(std::min<int64_t>(lanes, width - b * lanes));
    cursor.codes = buffer.get() + b * block_codes;
    const DecodeRows rows = cursor.lanes == kRansLanes ? decode : DecodeRowsPlain;
    for (int64_t r = 0, stop; r < layout.rows; r = stop) {
      const int64_t of_trellis = r % trellis_rows;
      if (of_trellis == 0) std::fill_n(cursor.node, lanes, 0u);
      stop = std::min({layout.rows, r + kCheckedRows, r - of_trellis + trellis_rows});
      rows(cursor, r, stop, ReadEscapes);
      if (cursor.words > end) return absl::DataLossError("has too few words");
      if (reader.broken) return absl::DataLossError("has a wrong escape");
    }
  }
  if (cursor.words != end) return absl::DataLossError("has too many words");
  if (!reader.bytes.empty()) return absl::DataLossError("has too many escapes");
  for (int l = 0; l < lanes; ++l) {
    if (cursor.state[l] >> 16 != 1) return absl::DataLossError("ends in a wrong state");
    seeds[l] = static_cast<uint16_t>(cursor.state[l]);
  }

  for (int64_t r = 0; r < layout.rows; ++r) {
    int8_t* row = codes + r * layout.columns + begin;
    for (int64_t b = 0; b < blocks; ++b) {
      std::memcpy(row + b * lanes, buffer.get() + b * block_codes + r * lanes,
                  std::min<int64_t>(lanes, width - b * lanes));
    }
  }
  return absl::OkStatus();
}

std::vector<DecodeRows> DecodersHere() {
  std::vector<DecodeRows> decoders = {DecodeRowsPlain};
  if (HasX86V3()) decoders.push_back(DecodeRowsAvx2);
  if (HasX86V4()) decoders.push_back(DecodeRowsAvx512);
  return decoders;
}

}  // namespace cvxq
