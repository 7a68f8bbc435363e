// Fuzz target: any bytes as a packed matrix, as they are and with a right checksum. What is
// accepted must be valid, decode, and survive being written again.
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "quant/packed_format.h"

namespace {

using cvxq::PackedMatrix;

const std::vector<cvxq::TableSet>& Tables() {
  static const std::vector<cvxq::TableSet> tables = [] {
    cvxq::TableSet set;
    for (int b = 1; b <= cvxq::kMaxDepth; ++b) {
      for (int i = 0; i < 1 << b; ++i) set[b].push_back(i - (1 << b) / 2 + 0.5f);
    }
    return std::vector<cvxq::TableSet>(2, set);
  }();
  return tables;
}

void Check(bool holds) {
  if (!holds) std::abort();
}

void Parse(const std::vector<uint8_t>& bytes) {
  const auto matrix = cvxq::ParsePackedMatrix(bytes, Tables());
  if (!matrix.ok()) {
    Check(matrix.status().code() == absl::StatusCode::kDataLoss);
    return;
  }
  Check(matrix->Validate().ok());
  if (matrix->rows * matrix->columns > 1 << 16) return;
  const auto again =
      cvxq::ParsePackedMatrix(cvxq::SerializePackedMatrix(*matrix, bytes[13], bytes[14]), Tables());
  Check(again.ok());
  Check(Decode(*again) == Decode(*matrix));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  Parse(bytes);
  if (size < 4) return 0;
  const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, data, size - 4));
  for (int i = 0; i < 4; ++i) bytes[size - 4 + i] = static_cast<uint8_t>(checksum >> (8 * i));
  Parse(bytes);
  return 0;
}
