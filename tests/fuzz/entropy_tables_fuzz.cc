// Fuzz target: any bytes as symbol statistics, as they are and with a right checksum. What is
// accepted must give the same tables when it is written and read again.
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "quant/entropy_tables.h"

namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

void Parse(const std::vector<uint8_t>& bytes) {
  const auto tables = cvxq::EntropyTables::Parse(bytes);
  if (!tables.ok()) {
    Check(tables.status().code() == absl::StatusCode::kDataLoss);
    return;
  }
  const auto again = cvxq::EntropyTables::Parse(tables->Serialize());
  Check(again.ok());
  constexpr size_t kEntries =
      size_t{cvxq::kSymbolClasses} * cvxq::kTrellisGrids * cvxq::kFrequencySum;
  Check(std::memcmp(again->entries(), tables->entries(), 4 * kEntries) == 0);
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
