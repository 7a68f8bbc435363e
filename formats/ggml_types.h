// The types of GGUF files: what a tensor's rows are made of, and the bytes of their blocks.
#ifndef CVXQ_FORMATS_GGML_TYPES_H_
#define CVXQ_FORMATS_GGML_TYPES_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "formats/weight_type.h"

namespace cvxq {

// Fields are a block's bytes without its codes. Codes are indices of levels().
class GgmlType : public WeightType {
 public:
  virtual int id() const = 0;  // ggml_type
  virtual int64_t block_bytes() const = 0;

  // Of grids only. fields [blocks, field_bytes()], codes [blocks * block()], bytes [blocks *
  // block_bytes()]. Bytes that hold something else than halves, scales and codes do not exist:
  // whatever they are, they unpack, and pack to the same bytes but for codes of -0.
  virtual void Pack(const uint8_t* /*fields*/, const uint8_t* /*codes*/, int64_t /*blocks*/,
                    uint8_t* /*bytes*/) const {}
  virtual void Unpack(const uint8_t* /*bytes*/, int64_t /*blocks*/, uint8_t* /*fields*/,
                      uint8_t* /*codes*/) const {}
};

// f32, f16, bf16; q8_0, q6_k, q5_k, q4_k, q3_k, q2_k, iq4_xs, iq4_nl, mxfp4, nvfp4; q4_0, q4_1,
// q5_0, q5_1, which take rows that do not divide into blocks of 256.
std::span<const GgmlType* const> GgmlTypes();

// nullptr where there is none.
const GgmlType* FindGgmlType(std::string_view name);
const GgmlType* FindGgmlType(int id);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGML_TYPES_H_
