#include "quant/groups.h"

#include <cmath>
#include <numeric>

namespace cvxq {

std::vector<int32_t> GroupLayout::ClusterOfMember() const {
  std::vector<int32_t> cluster(members.size());
  for (size_t i = 0; i < members.size(); ++i) {
    cluster[members[i]] = static_cast<int32_t>(static_cast<int64_t>(i) / cluster_size);
  }
  return cluster;
}

GroupLayout MakeGroupLayout(int64_t rows, int64_t columns, Partition partition,
                            int64_t cluster_size, const std::vector<float>& keys, int64_t run) {
  GroupLayout layout;
  layout.rows = rows;
  layout.columns = columns;
  layout.partition = partition;
  layout.cluster_size = std::clamp<int64_t>(cluster_size, 1, layout.member_count());
  layout.members.resize(layout.member_count());
  std::iota(layout.members.begin(), layout.members.end(), 0);
  const auto key = [&](int32_t member) { return std::isnan(keys[member]) ? 0.0f : keys[member]; };
  const int64_t step = run > 0 ? run : layout.member_count();
  for (int64_t first = 0; first < layout.member_count(); first += step) {
    std::stable_sort(layout.members.begin() + first,
                     layout.members.begin() + std::min(layout.member_count(), first + step),
                     [&](int32_t a, int32_t b) { return key(a) > key(b); });
  }
  for (int64_t c = 0; c < layout.cluster_count(); ++c) {
    std::sort(layout.members.begin() + layout.cluster_begin(c),
              layout.members.begin() + layout.cluster_end(c));
  }
  return layout;
}

void GatherCluster(const GroupLayout& layout, int64_t c, const float* w, float* out) {
  const int64_t begin = layout.cluster_begin(c), n = layout.members_in(c);
  const int64_t lines = layout.line_count();
  if (layout.partition == Partition::kRows) {  // lines are rows, members are columns
    for (int64_t line = 0; line < lines; ++line) {
      const float* row = w + line * layout.columns;
      for (int64_t i = 0; i < n; ++i) out[line * n + i] = row[layout.members[begin + i]];
    }
    return;
  }
  // A transpose, in blocks of lines that stay in the cache.
  constexpr int64_t kBlock = 16;
  for (int64_t first = 0; first < lines; first += kBlock) {
    const int64_t last = std::min(lines, first + kBlock);
    for (int64_t i = 0; i < n; ++i) {
      const float* row = w + static_cast<int64_t>(layout.members[begin + i]) * layout.columns;
      for (int64_t line = first; line < last; ++line) out[line * n + i] = row[line];
    }
  }
}

GroupMoments ComputeGroupMoments(const GroupLayout& layout, const float* w) {
  const int64_t lines = layout.line_count();
  GroupMoments moments;
  moments.mean.resize(layout.group_count());
  moments.variance.resize(layout.group_count());
  std::vector<float> values(layout.cluster_size * lines);
  for (int64_t c = 0; c < layout.cluster_count(); ++c) {
    const int64_t n = layout.members_in(c);
    GatherCluster(layout, c, w, values.data());
    for (int64_t line = 0; line < lines; ++line) {
      const float* group = values.data() + line * n;
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < n; ++i) sum += group[i];
      const double mean = sum / n;
      for (int64_t i = 0; i < n; ++i) squares += (group[i] - mean) * (group[i] - mean);
      moments.mean[c * lines + line] = static_cast<float>(mean);
      moments.variance[c * lines + line] = static_cast<float>(squares / n);
    }
  }
  return moments;
}

std::vector<float> MemberVariances(int64_t rows, int64_t columns, Partition partition,
                                   const float* w) {
  const bool by_rows = partition == Partition::kColumns;  // members are rows
  std::vector<double> sum(by_rows ? rows : columns, 0.0), squares(sum.size(), 0.0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const double value = w[r * columns + c];
      const int64_t member = by_rows ? r : c;
      sum[member] += value;
      squares[member] += value * value;
    }
  }
  const double n = static_cast<double>(by_rows ? columns : rows);
  std::vector<float> variance(sum.size());
  for (size_t i = 0; i < sum.size(); ++i) {
    variance[i] = static_cast<float>(std::max(0.0, squares[i] / n - (sum[i] / n) * (sum[i] / n)));
  }
  return variance;
}

}  // namespace cvxq
