// How ggml's blocks hold their codes and scales (llama.cpp: ggml-common.h, ggml-quants.c).
//
// The bytes of a block are its fields (scales, in the order in which they lie) and planes of code
// bits. Within a plane, sections of `section` elements share `bytes` bytes: element e has
//   byte  offset + e / section * bytes + e % section % bytes,
//   bits  width of them, from bit width * (e % section / bytes) on,
// which are the code's bits from `from` on.
#ifndef CVXQ_FORMATS_GGML_LAYOUT_H_
#define CVXQ_FORMATS_GGML_LAYOUT_H_

#include <cstdint>
#include <span>
#include <string_view>

namespace cvxq {

struct CodePlane {
  int width, from;
  int offset, section, bytes;
};

// Bytes [offset, offset + bytes) of a block: the fields' next.
struct FieldRun {
  int offset, bytes;
};

struct GgmlLayout {
  std::string_view name;
  int id;  // ggml_type
  int block, sub;
  int block_bytes;
  std::span<const FieldRun> fields;
  std::span<const CodePlane> planes;
  // Step and offset of each sub-block; offset is nullptr for types without.
  void (*grids)(const uint8_t* fields, float* step, float* offset);
};

// Of the type of this id, which is there.
const GgmlLayout& LayoutOf(int id);

// One block. codes[block]: the bits that are stored, as they are.
void PackBlock(const GgmlLayout& layout, const uint8_t* fields, const uint8_t* codes, uint8_t* out);
void UnpackBlock(const GgmlLayout& layout, const uint8_t* bytes, uint8_t* fields, uint8_t* codes);

// Sub-scales of Q4_K and Q5_K: 6 bits each, s and m of 8 sub-blocks in 12 bytes; and of Q3_K: 16 of
// 6 bits; of IQ4_XS: 8 of 6 bits in a 16-bit word of high and four bytes of low bits.
void PackScalesQ4K(const uint8_t* s, const uint8_t* m, uint8_t* out);
void PackScalesQ3K(const uint8_t* s, uint8_t* out);
void PackScalesIq4Xs(const uint8_t* s, uint8_t* out);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGML_LAYOUT_H_
