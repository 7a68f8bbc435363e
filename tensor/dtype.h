// Element types, named as in safetensors, and exact conversions of the small floats.
#ifndef CVXQ_TENSOR_DTYPE_H_
#define CVXQ_TENSOR_DTYPE_H_

#include <bit>
#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace cvxq {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kI8,
  kU8,
  kI32,
  kI64,
  kU16,
  kU32,
  kF64,
  kBool,
  kF8E4M3
};

// Bytes of one element.
int64_t ByteSize(DType dtype);
// "F32", "BF16", ...: the safetensors names.
std::string_view Name(DType dtype);
// The inverse of Name; kUnimplemented for a safetensors type that has no place here.
StatusOr<DType> ParseDType(std::string_view name);

// bfloat16 as its bits: the upper half of a float.
inline float BF16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
// Rounds to nearest, ties to even; NaN stays NaN (quiet).
inline uint16_t FloatToBF16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// IEEE half precision as its bits. FloatToF16 rounds to nearest, ties to even; overflow is Inf.
float F16ToFloat(uint16_t bits);
uint16_t FloatToF16(float value);

}  // namespace cvxq

#endif  // CVXQ_TENSOR_DTYPE_H_
