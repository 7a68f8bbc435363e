// Fuzz target: any bytes as a scaled matrix, as they are and with a right checksum. What is
// accepted must be valid and, by the shape that it was asked for, decode.
#include <zlib.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "quant/entropy_tables.h"
#include "quant/scaled_codes.h"
#include "quant/scaled_format.h"

namespace {

using cvxq::EntropyTables;
using cvxq::ScaledMatrix;

void Check(bool holds) {
  if (!holds) std::abort();
}

// Of integers of all spreads; or of nothing, as hostile files are made for.
EntropyTables Tables(bool trained) {
  cvxq::SymbolCounts counts;
  if (!trained) return EntropyTables::Train(counts);
  constexpr int kSize = 96;
  cvxq::ScaledCodes codes{.rows = kSize, .columns = kSize};
  for (int r = 0; r < kSize; ++r) {
    codes.row_class.push_back(static_cast<int8_t>(r / 2));
    for (int c = 0; c < kSize; ++c) {
      const float centred = static_cast<float>((r * 37 + c * 61) % 97 - 48) / 48;
      const float k = 4 * centred * centred * centred * std::exp2(static_cast<float>(r) / 8 - 4);
      codes.integers.push_back(static_cast<int16_t>(std::lround(k)));
    }
  }
  codes.column_class.assign(kSize, 0);
  counts.Add(codes);
  return EntropyTables::Train(counts);
}

// The shape that a file gives itself, so that it is not refused for that. It may be large enough
// for 32 lanes, not more, so that inputs are cheap.
void ShapeOf(std::span<const uint8_t> bytes, int64_t (&shape)[2]) {
  size_t at = 5;
  for (int64_t& extent : shape) {
    extent = 0;
    for (int shift = 0; shift < 28 && at < bytes.size(); shift += 7) {
      extent |= int64_t{bytes[at] & 127} << shift;
      if (bytes[at++] < 128) break;
    }
  }
  const int64_t weights = shape[0] * shape[1];
  if (weights < 1 || weights >= (1 << 17) + (1 << 13)) shape[0] = shape[1] = 3;
}

void Parse(const std::vector<uint8_t>& bytes) {
  int64_t shape[2];
  ShapeOf(bytes, shape);
  static const EntropyTables tables[] = {Tables(false), Tables(true)};
  for (const EntropyTables& used : tables) {
    const auto matrix = cvxq::ParseScaledMatrix(bytes, used, shape[0], shape[1]);
    if (!matrix.ok()) {
      Check(matrix.status().code() == absl::StatusCode::kDataLoss);
      continue;
    }
    Check(matrix->rows == shape[0] && matrix->columns == shape[1]);
    Check(matrix->Validate().ok());
    Check(Decode(*matrix).size() == static_cast<size_t>(shape[0] * shape[1]));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  Parse(bytes);
  if (size < 4) return 0;
  const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, data, size - 4));
  std::memcpy(&bytes[size - 4], &checksum, 4);
  Parse(bytes);
  return 0;
}
