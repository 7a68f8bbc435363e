// How a matrix is cut into groups that share a bit depth and a scale (packed_matrix.h has the
// picture: members are clustered, lines run along the other axis).
#ifndef CVXQ_QUANT_GROUPS_H_
#define CVXQ_QUANT_GROUPS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/packed_matrix.h"

namespace cvxq {

struct GroupLayout {
  int64_t rows = 0, columns = 0;  // M, N
  Partition partition = Partition::kColumns;
  int64_t cluster_size = 0;
  std::vector<int32_t> members;  // cluster after cluster; ascending inside a cluster

  int64_t member_count() const { return partition == Partition::kColumns ? rows : columns; }
  int64_t line_count() const { return partition == Partition::kColumns ? columns : rows; }
  int64_t cluster_count() const { return (member_count() + cluster_size - 1) / cluster_size; }
  int64_t group_count() const { return cluster_count() * line_count(); }
  int64_t cluster_begin(int64_t c) const { return c * cluster_size; }
  int64_t cluster_end(int64_t c) const { return std::min(member_count(), (c + 1) * cluster_size); }
  int64_t members_in(int64_t c) const { return cluster_end(c) - cluster_begin(c); }

  // The cluster of each member: int32 [member_count].
  std::vector<int32_t> ClusterOfMember() const;
};

// Clusters of `cluster_size` members (at most all) with keys that are alike: members are sorted by
// key, largest first, ties by index, and cut in clusters. NaN keys count as zero. With `run` above
// 0 members are only sorted inside runs of so many; it is a multiple of cluster_size.
GroupLayout MakeGroupLayout(int64_t rows, int64_t columns, Partition partition,
                            int64_t cluster_size, const std::vector<float>& keys, int64_t run = 0);

// The weights of cluster c as line-major values: out[line * members_in(c) + i], from W [M, N].
void GatherCluster(const GroupLayout& layout, int64_t c, const float* w, float* out);

// Mean and variance about it of each group: [clusters, lines] each, from W [M, N].
struct GroupMoments {
  std::vector<float> mean, variance;
};
GroupMoments ComputeGroupMoments(const GroupLayout& layout, const float* w);

// Variance of the weights of each member (a row under kColumns). Times the member's mean squared
// gradient it is the key by which members are clustered.
std::vector<float> MemberVariances(int64_t rows, int64_t columns, Partition partition,
                                   const float* w);

}  // namespace cvxq

#endif  // CVXQ_QUANT_GROUPS_H_
