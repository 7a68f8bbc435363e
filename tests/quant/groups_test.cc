#include "quant/groups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

struct Shape {
  int64_t rows, columns, cluster_size;
};
constexpr Shape kShapes[] = {{1, 1, 1},   {1, 7, 3},   {7, 1, 3},    {5, 9, 2},
                             {17, 33, 8}, {33, 17, 8}, {16, 16, 16}, {40, 19, 40}};
constexpr Partition kPartitions[] = {Partition::kColumns, Partition::kRows};

// The weight of member i of cluster c on a line, the plain way.
float Weight(const GroupLayout& layout, const std::vector<float>& w, int64_t c, int64_t i,
             int64_t line) {
  const int64_t member = layout.members[layout.cluster_begin(c) + i];
  return layout.partition == Partition::kColumns ? w[member * layout.columns + line]
                                                 : w[line * layout.columns + member];
}

TEST(GroupLayout, MembersArePermutedAndClusteredByKey) {
  for (const Partition partition : kPartitions) {
    for (const Shape& shape : kShapes) {
      const int64_t count = partition == Partition::kColumns ? shape.rows : shape.columns;
      Draws draws(3);
      const std::vector<float> keys = draws.Normals(count);
      const GroupLayout layout =
          MakeGroupLayout(shape.rows, shape.columns, partition, shape.cluster_size, keys);
      EXPECT_EQ(layout.member_count(), count);
      EXPECT_EQ(layout.line_count(), shape.rows * shape.columns / count);
      EXPECT_EQ(layout.group_count(), layout.cluster_count() * layout.line_count());
      std::vector<int32_t> sorted = layout.members;
      std::sort(sorted.begin(), sorted.end());
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(sorted[i], i);
      int64_t members = 0;
      float smallest_before = std::numeric_limits<float>::infinity();
      for (int64_t c = 0; c < layout.cluster_count(); ++c) {
        members += layout.members_in(c);
        EXPECT_GE(layout.members_in(c), 1);
        EXPECT_LE(layout.members_in(c), layout.cluster_size);
        float smallest = std::numeric_limits<float>::infinity();
        for (int64_t i = layout.cluster_begin(c); i < layout.cluster_end(c); ++i) {
          if (i > layout.cluster_begin(c)) {
            EXPECT_GT(layout.members[i], layout.members[i - 1]);
          }
          EXPECT_LE(keys[layout.members[i]], smallest_before);
          smallest = std::min(smallest, keys[layout.members[i]]);
        }
        smallest_before = smallest;
      }
      EXPECT_EQ(members, count);
      const std::vector<int32_t> cluster = layout.ClusterOfMember();
      for (int64_t i = 0; i < count; ++i) {
        EXPECT_EQ(cluster[layout.members[i]], i / layout.cluster_size);
      }
    }
  }
}

TEST(GroupLayout, TiesGoByIndex) {
  const GroupLayout layout = MakeGroupLayout(6, 2, Partition::kColumns, 2, {1, 2, 1, 2, 1, 2});
  EXPECT_EQ(layout.members, (std::vector<int32_t>{1, 3, 0, 5, 2, 4}));
}

TEST(GroupLayout, NanKeysCountAsZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const GroupLayout layout =
      MakeGroupLayout(2, 6, Partition::kRows, 2, {nan, -1, 1, -infinity, nan, infinity});
  EXPECT_EQ(layout.members, (std::vector<int32_t>{2, 5, 0, 4, 1, 3}));
}

TEST(GroupLayout, ClustersAreAtMostAllMembers) {
  EXPECT_EQ(MakeGroupLayout(3, 4, Partition::kColumns, 100, {1, 2, 3}).cluster_size, 3);
  EXPECT_EQ(MakeGroupLayout(3, 4, Partition::kRows, 100, {1, 2, 3, 4}).cluster_size, 4);
  EXPECT_EQ(MakeGroupLayout(3, 4, Partition::kColumns, 0, {1, 2, 3}).cluster_size, 1);
}

TEST(Groups, GatherAndMomentsFollowTheFormulas) {
  for (const Partition partition : kPartitions) {
    for (const Shape& shape : kShapes) {
      Draws draws(5);
      std::vector<float> w = draws.Normals(shape.rows * shape.columns);
      for (float& value : w) value += 3;
      const int64_t count = partition == Partition::kColumns ? shape.rows : shape.columns;
      const GroupLayout layout = MakeGroupLayout(shape.rows, shape.columns, partition,
                                                 shape.cluster_size, draws.Normals(count));
      const GroupMoments moments = ComputeGroupMoments(layout, w.data());
      ASSERT_EQ(static_cast<int64_t>(moments.mean.size()), layout.group_count());
      ASSERT_EQ(static_cast<int64_t>(moments.variance.size()), layout.group_count());
      for (int64_t c = 0; c < layout.cluster_count(); ++c) {
        const int64_t n = layout.members_in(c), lines = layout.line_count();
        std::vector<float> gathered(n * lines);
        GatherCluster(layout, c, w.data(), gathered.data());
        for (int64_t line = 0; line < lines; ++line) {
          double mean = 0, variance = 0;
          for (int64_t i = 0; i < n; ++i) {
            ASSERT_EQ(gathered[line * n + i], Weight(layout, w, c, i, line));
            mean += gathered[line * n + i] / static_cast<double>(n);
          }
          for (int64_t i = 0; i < n; ++i) {
            variance += std::pow(gathered[line * n + i] - mean, 2) / static_cast<double>(n);
          }
          EXPECT_NEAR(moments.mean[c * lines + line], mean, 1e-6 * std::abs(mean));
          EXPECT_NEAR(moments.variance[c * lines + line], variance, 1e-5 * variance + 1e-12);
        }
      }
    }
  }
}

TEST(Groups, MemberVariancesFollowTheFormula) {
  constexpr int64_t kRows = 13, kColumns = 29;
  Draws draws(7);
  std::vector<float> w = draws.Normals(kRows * kColumns, 0.1f);
  for (float& value : w) value += 1;
  for (const Partition partition : kPartitions) {
    const bool rows = partition == Partition::kColumns;
    const std::vector<float> variances = MemberVariances(kRows, kColumns, partition, w.data());
    ASSERT_EQ(variances.size(), rows ? kRows : kColumns);
    for (size_t member = 0; member < variances.size(); ++member) {
      const int64_t n = rows ? kColumns : kRows;
      const auto at = [&](int64_t i) {
        return static_cast<double>(rows ? w[member * kColumns + i] : w[i * kColumns + member]);
      };
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < n; ++i) mean += at(i) / n;
      for (int64_t i = 0; i < n; ++i) variance += (at(i) - mean) * (at(i) - mean) / n;
      EXPECT_NEAR(variances[member], variance, 1e-6 * variance);
    }
  }
  const std::vector<float> constant(12, 1e15f);  // never below zero
  for (const float variance : MemberVariances(3, 4, Partition::kColumns, constant.data())) {
    EXPECT_EQ(variance, 0);
  }
}

}  // namespace
}  // namespace cvxq
