// Parses the JSON header of a safetensors file into raw entries. Internal to storage/.
#ifndef CVXQ_STORAGE_SAFETENSORS_HEADER_H_
#define CVXQ_STORAGE_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cvxq {

// The largest header that readers of the format take.
inline constexpr int64_t kLargestSafetensorsHeader = 100'000'000;

// One entry as it stands in the header: all numbers are in [0, 2^63), nothing else is checked.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> offsets;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the file's order, no two with one name
  std::map<std::string, std::string> metadata;
};

// kDataLoss says what is wrong, without the path: not JSON, invalid UTF-8, another structure than
// the format's, a name that comes twice, a missing field, a negative, fractional or too large
// number. Nested input cannot exhaust the stack: the third level already is the last one allowed.
StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_SAFETENSORS_HEADER_H_
