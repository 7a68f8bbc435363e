// The symbol statistics that the integers of a whole model are coded with: for each class
// (scaled_codes.h) and each grid of the trellis, how often each magnitude occurs, in 1/2048.
//
//   SymbolCounts counts;
//   for (const ScaledCodes& codes : model) counts.Add(codes);  // or in parts, merged in any order
//   const EntropyTables tables = EntropyTables::Train(counts);
//   const std::vector<uint8_t> bytes = tables.Serialize();     // the tensor "cvxq.entropy"
//
// A table has a symbol for each integer -A .. A, the same for both signs, and an escape for all
// others, whose values travel apart (rans.h). On disk a frequency is a step on a grid of 1/16 of an
// octave, told as the difference to a guess from the class before; what is told about small classes
// is weighed against what it saves. Little-endian:
//
//   0      one range-coded stream (range_coder.h), for each class:
//            a bit: whether it has tables of its own; otherwise it has those of the class below
//            (below the first: those of the first; if none has: zeros and escapes alone); then for
//            each grid: A, as the difference to the A before of this grid, and the steps of
//            0 .. A and of the escape
//   end-4  u32  CRC-32 of everything before
#ifndef CVXQ_QUANT_ENTROPY_TABLES_H_
#define CVXQ_QUANT_ENTROPY_TABLES_H_

#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/status.h"
#include "quant/scaled_codes.h"
#include "quant/trellis.h"

namespace cvxq {

inline constexpr int kFrequencyBits = 11, kFrequencySum = 1 << kFrequencyBits;
inline constexpr int kMaxCode = 127;  // of a symbol; codes beyond are escapes

// How often each magnitude occurs, by class and grid. Sums of counts are exact in any order.
class SymbolCounts {
 public:
  SymbolCounts() : counts_(kSymbolClasses * kTrellisGrids * kBins) {}

  // The classes of `codes` are set.
  void Add(const ScaledCodes& codes);
  void Add(const SymbolCounts& other);

  static constexpr int kBins = kMaxCode + 2;  // the last one for all larger magnitudes
  // [kBins]
  std::span<const uint64_t> bins(int symbol_class, int grid) const {
    return std::span(counts_).subspan((symbol_class * kTrellisGrids + grid) * kBins, kBins);
  }
  // All of them in a row, to be sent elsewhere.
  std::span<const uint64_t> all() const { return counts_; }
  void Set(size_t place, uint64_t count) { counts_[place] = count; }

 private:
  std::vector<uint64_t> counts_;
};

// Reading from several threads is safe.
class EntropyTables {
 public:
  // The statistics as they will be read back: Parse(Serialize()) gives the same.
  static EntropyTables Train(const SymbolCounts& counts);
  static StatusOr<EntropyTables> Parse(std::span<const uint8_t> bytes);
  std::vector<uint8_t> Serialize() const;

  // What the integer k costs, in bits. With an escape: and the bytes of its value.
  float Cost(int symbol_class, int grid, int k) const {
    const int magnitude = std::abs(k);
    const int table = symbol_class * kTrellisGrids + grid;
    return magnitude <= kMaxCode ? cost_[table * (kMaxCode + 1) + magnitude]
                                 : EscapeCost(table, magnitude);
  }

  // For the coders; a table is symbol_class * kTrellisGrids + grid.

  // The largest magnitude A that is no escape.
  int largest(int table) const { return largest_[table]; }
  // first slot << 16 | frequency, by the low byte of the symbol k; escape: kEscape.
  const uint32_t* symbols(int table) const { return &symbols_[table * 256]; }
  // [tables, kFrequencySum] by slot, from the lowest bit: place within the symbol's slots (11
  // bits), code (8, signed; trellis.h), zero (1), parity of k (1), frequency (11).
  const uint32_t* entries() const { return entries_.data(); }

  static constexpr int kEscape = 128;  // as a code: -128

 private:
  // The steps of one table.
  struct Steps {
    std::vector<uint8_t> magnitude;  // [A + 1]
    uint8_t escape = 0;
  };
  class Stream;
  class Trainer;

  EntropyTables();
  void Build();
  void BuildTable(int table, const Steps& steps);
  float EscapeCost(int table, int magnitude) const;

  std::vector<bool> own_;     // [classes]
  std::vector<Steps> steps_;  // [tables]; of classes with tables of their own
  std::vector<int> largest_;  // [tables]
  std::vector<uint32_t> symbols_, entries_;
  std::vector<float> cost_;
};

}  // namespace cvxq

#endif  // CVXQ_QUANT_ENTROPY_TABLES_H_
