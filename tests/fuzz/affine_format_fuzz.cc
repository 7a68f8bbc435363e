// Fuzz target: any bytes as an affine matrix, as they are and with a right checksum. What is
// accepted must be valid, decode, and be written again as the same bytes.
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "quant/affine_format.h"

namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

void Parse(const std::vector<uint8_t>& bytes) {
  const auto matrix = cvxq::ParseAffineMatrix(bytes);
  if (!matrix.ok()) {
    Check(matrix.status().code() == absl::StatusCode::kDataLoss);
    return;
  }
  Check(matrix->Validate().ok());
  Check(cvxq::SerializeAffineMatrix(*matrix) == bytes);
  const std::vector<float> w = Decode(*matrix);
  Check(static_cast<int64_t>(w.size()) == matrix->rows * matrix->columns);
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
