#include "tensor/dtype.h"

#include <array>
#include <utility>

namespace cvxq {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};

constexpr std::array kRows = {
    Row{DType::kF32, "F32", 4}, Row{DType::kF16, "F16", 2},   Row{DType::kBF16, "BF16", 2},
    Row{DType::kI8, "I8", 1},   Row{DType::kU8, "U8", 1},     Row{DType::kI32, "I32", 4},
    Row{DType::kI64, "I64", 8}, Row{DType::kU16, "U16", 2},   Row{DType::kU32, "U32", 4},
    Row{DType::kF64, "F64", 8}, Row{DType::kBool, "BOOL", 1}, Row{DType::kF8E4M3, "F8_E4M3", 1},
};

}  // namespace

int64_t ByteSize(DType dtype) { return kRows[static_cast<int>(dtype)].bytes; }

std::string_view Name(DType dtype) { return kRows[static_cast<int>(dtype)].name; }

StatusOr<DType> ParseDType(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return absl::UnimplementedError(absl::StrCat("element type ", std::string(name),
                                               " is not supported; use F32, F16 or BF16 weights"));
}

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  // Shift into float position with the exponent too small by 112, then let an exact multiply
  // repair it: subnormal halves come out right as well.
  const float scaled = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

uint16_t FloatToF16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to Inf
  if (magnitude < 0x38800000u) {                        // below 2^-14: a subnormal half
    // Adding 0.5 puts the result's last bit at 2^-24, so the addition itself rounds to even.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(sum) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>(rounded >> 13);
}

}  // namespace cvxq
