// The bytes of a packed matrix on disk: one tensor "<linear>.packed" of type U8 for each linear in
// an ordinary safetensors file, plus "cvxq.tables", shared by the whole model.
// docs/packed_format.md draws the file; this is one packed matrix, little-endian:
//
//   0   u32  rows M
//   4   u32  columns N
//   8   u32  cluster size R
//   12  u8   bit 0: partition (0 columns, 1 rows); bit 1: means are present
//   13  u8   scale steps to an octave: 1, 2, 4, 8 or 16
//   14  u8   which family of tables (index into cvxq.tables)
//   15  u8   zero
//   16  u32  zero
//   20  u32  length of the side information, S bytes
//   24       side information, S bytes, one range-coded stream (range_coder.h):
//              cluster of each member, plain binary of ceil(log2 clusters) bits (none for one
//              cluster); for each cluster: the mean depth (plain, 4 bits), the mean scale index +
//              2048 (plain, 12 bits), and for each line:
//                depth, as the difference to the depth of the same line in the cluster before, in
//                the context of that depth (first cluster: to the mean depth); if there are means,
//                or the depth is above 0: scale index, as the difference to the mean, in the
//                context of the depth; with means: mean index, in the context of the depth
//   24+S     codes (packed_matrix.h), to 4 bytes before the end
//   end-4    u32  CRC-32 of everything before
//
// A scale is 2^(index / steps), a mean index * scale / 32 (scale_grid.h).
#ifndef CVXQ_QUANT_PACKED_FORMAT_H_
#define CVXQ_QUANT_PACKED_FORMAT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/packed_matrix.h"

namespace cvxq {

using TableSet = std::array<std::vector<float>, kMaxDepth + 1>;

// Scales and means of `matrix` must lie on the grids of scale_grid.h at these steps, and members
// ascend inside each cluster.
std::vector<uint8_t> SerializePackedMatrix(const PackedMatrix& matrix, int scale_steps,
                                           int table_family);

// The inverse. Every lie in the bytes (wrong length, checksum, range, permutation) is kDataLoss; no
// input makes it read out of range or allocate more than a small multiple of `bytes`. The shape is
// checked by the caller, who knows the architecture. `tables` are the families of the file.
StatusOr<PackedMatrix> ParsePackedMatrix(std::span<const uint8_t> bytes,
                                         std::span<const TableSet> tables);

// Bytes of the codes for these depths: known before anything is coded.
int64_t CodeBytes(const PackedMatrix& matrix);

}  // namespace cvxq

#endif  // CVXQ_QUANT_PACKED_FORMAT_H_
