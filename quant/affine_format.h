// The bytes of an affine matrix on disk: one tensor "<linear>.affine" of type U8 for each linear in
// an ordinary safetensors file. Little-endian, with k kept columns and G = ceil(N / group) groups:
//
//   0   u32  rows M
//   4   u32  columns N
//   8   u32  group
//   12  u8   bits of a code, 2..8
//   13  u8   bit 0: column scales are present
//   14  u16  zero
//   16  u32  kept columns k
//   20       codes of the columns that are not kept, row after row, `bits` each; a bit
//            stream, least significant bit first, as all here filled up with zeros to a byte
//            scales, F16 [M, G]
//            zero points [M, G], `bits` each; a bit stream
//            column scales, F16 [N], if present
//            kept columns, u32 [k]
//            kept values, F16 [M, k]
//   end-4    u32  CRC-32 of everything before
#ifndef CVXQ_QUANT_AFFINE_FORMAT_H_
#define CVXQ_QUANT_AFFINE_FORMAT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/affine_matrix.h"

namespace cvxq {

// `matrix` must be valid.
std::vector<uint8_t> SerializeAffineMatrix(const AffineMatrix& matrix);

// The inverse. Every lie in the bytes (wrong length, checksum, range) is kDataLoss; no input makes
// it read out of range or allocate more than a small multiple of `bytes`. The shape is checked by
// the caller, who knows the architecture.
StatusOr<AffineMatrix> ParseAffineMatrix(std::span<const uint8_t> bytes);

// Bytes of the codes and the kept values: what is stored of the weights themselves, the rest being
// side information.
int64_t CodeBytes(const AffineMatrix& matrix);

}  // namespace cvxq

#endif  // CVXQ_QUANT_AFFINE_FORMAT_H_
