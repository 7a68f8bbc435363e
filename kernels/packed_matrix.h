// The packed form of one linear's matrix W [M, N]: what codecs make, what the packed format
// stores and what kernels compute from.
//
// The matrix is cut in groups that share a bit depth and a scale. Partition kColumns: rows are
// put in clusters of `cluster_size`, and a group is one cluster x one column. kRows is the same
// picture transposed: columns are put in clusters, a group is one row x one cluster. To speak of
// both at once: *members* are what is clustered (rows under kColumns), *lines* run along the other
// axis (columns under kColumns). So there are members x lines weights in clusters x lines groups.
//
// Value of the weight of member i (in cluster c) on line j, with b = depth[c, j]:
//   scale[c, j] * table[b][code] + mean[c, j]          (float; multiply, round, add, round)
// without the addition where there are no means. Depth 0 has no code: its value is mean[c, j], or
// 0. Every decoder gives exactly these bits.
//
// Codes, a dense little-endian bit stream (least significant bit first) for each cluster, each
// cluster starting at a byte: lines in the order of depth (deepest first; equal depths by index),
// and for each line the codes of the cluster's members in order, b bits each. Inner loops over the
// lines of one depth thus have one width.
#ifndef CVXQ_KERNELS_PACKED_MATRIX_H_
#define CVXQ_KERNELS_PACKED_MATRIX_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "base/status.h"

namespace cvxq {

enum class Partition : uint8_t { kColumns, kRows };

inline constexpr int kMaxDepth = 8;

struct PackedMatrix {
  int64_t rows = 0, columns = 0;  // M, N
  Partition partition = Partition::kColumns;
  int64_t cluster_size = 0;      // members in each cluster; the last may have fewer
  std::vector<int32_t> members;  // member indices, cluster after cluster
  std::vector<uint8_t> depth;    // [clusters, lines], 0..kMaxDepth
  std::vector<float> scale;      // [clusters, lines]
  std::vector<float> mean;       // [clusters, lines] or empty
  std::array<std::vector<float>, kMaxDepth + 1>
      table;  // table[b]: 2^b values; may be empty if unused
  std::vector<uint8_t> codes;

  int64_t member_count() const { return partition == Partition::kColumns ? rows : columns; }
  int64_t line_count() const { return partition == Partition::kColumns ? columns : rows; }
  int64_t cluster_count() const { return (member_count() + cluster_size - 1) / cluster_size; }
  int64_t cluster_begin(int64_t c) const { return c * cluster_size; }
  int64_t cluster_end(int64_t c) const { return std::min(member_count(), (c + 1) * cluster_size); }

  // Checks every invariant above (sizes, ranges, that members is a permutation, tables present,
  // finite values, length of codes); kDataLoss with one line that names what is wrong.
  Status Validate() const;
};

// The lines of cluster c in stored order: deepest first, equal depths by index.
std::vector<int32_t> LineOrder(const PackedMatrix& matrix, int64_t cluster);

// Bytes of cluster c's codes.
int64_t ClusterCodeBytes(const PackedMatrix& matrix, int64_t cluster);

// The plain decoder, the specification of all others: w[M, N].
std::vector<float> Decode(const PackedMatrix& matrix);

// Packs codes[cluster][line][member] (one byte each, in the order of `members` and line *index*)
// into matrix.codes; shape, cluster size and depth must be set, codes below 2^depth. codes has
// member_count x line_count entries: the entry of cluster c, line j, i-th member of c is at
//   cluster_begin(c) * line_count + j * (cluster_end(c) - cluster_begin(c)) + i.
void PackCodes(const std::vector<uint8_t>& codes, PackedMatrix& matrix);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_PACKED_MATRIX_H_
