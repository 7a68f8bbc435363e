// The packed form itself: order of lines, bytes of codes, the plain decoder, refusal of bad input.
#include "kernels/packed_matrix.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/packed_test_matrix.h"

namespace cvxq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two rows {1, 0} in one cluster, four columns of depths 1, 3, 0, 3.
PackedMatrix SmallMatrix() {
  PackedMatrix matrix;
  matrix.rows = 2;
  matrix.columns = 4;
  matrix.cluster_size = 2;
  matrix.members = {1, 0};
  matrix.depth = {1, 3, 0, 3};
  matrix.scale = {1, 2, 3, 4};
  matrix.mean = {0.5f, 0, -7, 0.25f};
  matrix.table[1] = {-1, 1};
  matrix.table[3] = {0, 1, 2, 3, 4, 5, 6, 7};
  // Column by column; in each, the codes of rows 1 and 0.
  PackCodes({1, 0, /**/ 5, 3, /**/ 0, 0, /**/ 7, 2}, matrix);
  return matrix;
}

TEST(PackedMatrixTest, StoresDeepestLinesFirstAndLowBitsFirst) {
  const PackedMatrix matrix = SmallMatrix();
  EXPECT_THAT(LineOrder(matrix, 0), ElementsAre(1, 3, 0, 2));
  EXPECT_EQ(ClusterCodeBytes(matrix, 0), 2);
  // Bits in order: 5 = 101, 3 = 110, 7 = 111, 2 = 010, 1, 0 (low bit first).
  EXPECT_THAT(matrix.codes, ElementsAre(0b11011101, 0b00010101));
  EXPECT_TRUE(matrix.Validate().ok()) << matrix.Validate();
}

TEST(PackedMatrixTest, DecodesByHand) {
  PackedMatrix matrix = SmallMatrix();
  EXPECT_THAT(Decode(matrix), ElementsAre(-0.5f, 6, -7, 8.25f, 1.5f, 10, -7, 28.25f));
  matrix.mean.clear();
  EXPECT_THAT(Decode(matrix), ElementsAre(-1, 6, 0, 8, 1, 10, 0, 28));
  matrix.partition = Partition::kRows;  // the same picture transposed
  std::swap(matrix.rows, matrix.columns);
  EXPECT_TRUE(matrix.Validate().ok()) << matrix.Validate();
  EXPECT_THAT(Decode(matrix), ElementsAre(-1, 1, 6, 10, 0, 0, 8, 28));
}

TEST(PackedMatrixTest, DecodeReturnsWhatPackCodesWasGiven) {
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    for (int64_t cluster_size : {1, 8, 13, 64, 200}) {
      for (bool means : {false, true}) {
        std::vector<uint8_t> codes;
        const PackedMatrix matrix = RandomPackedMatrix({.rows = 37,
                                                        .columns = 50,
                                                        .cluster_size = cluster_size,
                                                        .partition = partition,
                                                        .means = means},
                                                       cluster_size, &codes);
        ASSERT_TRUE(matrix.Validate().ok()) << matrix.Validate();
        const std::vector<float> w = Decode(matrix);
        const int64_t lines = matrix.line_count();
        for (int64_t m = 0; m < matrix.member_count(); ++m) {
          const int64_t c = m / cluster_size, begin = matrix.cluster_begin(c);
          for (int64_t j = 0; j < lines; ++j) {
            const int64_t group = c * lines + j;
            const int code = codes[begin * lines + j * (matrix.cluster_end(c) - begin) + m - begin];
            const int depth = matrix.depth[group];
            float expected = depth == 0 ? 0 : matrix.scale[group] * matrix.table[depth][code];
            if (means) expected += matrix.mean[group];
            const int64_t member = matrix.members[m];
            ASSERT_EQ(w[partition == Partition::kColumns ? member * 50 + j : j * 50 + member],
                      expected);
          }
        }
      }
    }
  }
}

struct Breakage {
  std::string message;  // a part of the expected one
  std::function<void(PackedMatrix&)> apply;
};

TEST(PackedMatrixTest, ValidateRefusesEveryBrokenInvariant) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<Breakage> breakages = {
      {"partition", [](auto& m) { m.partition = static_cast<Partition>(2); }},
      {"shape", [](auto& m) { m.rows = 0; }},
      {"shape", [](auto& m) { m.rows = -2; }},
      {"shape", [&](auto& m) { m.columns = huge; }},
      {"shape", [&](auto& m) { m.rows = m.columns = huge; }},
      {"depths", [](auto& m) { m.rows = m.columns = 2147483647; }},
      {"members", [](auto& m) { m.rows = 1; }},
      {"depths", [](auto& m) { m.rows = 3; }},
      {"depths", [](auto& m) { m.columns = 3; }},
      {"cluster size", [](auto& m) { m.cluster_size = 0; }},
      {"cluster size", [](auto& m) { m.cluster_size = -1; }},
      {"cluster size", [&](auto& m) { m.cluster_size = huge; }},
      {"depths", [](auto& m) { m.cluster_size = 1; }},
      {"members", [](auto& m) { m.members.pop_back(); }},
      {"members", [](auto& m) { m.members.push_back(2); }},
      {"out of range", [](auto& m) { m.members[0] = 2; }},
      {"out of range", [](auto& m) { m.members[1] = -1; }},
      {"twice", [](auto& m) { m.members[0] = 0; }},
      {"depths", [](auto& m) { m.depth.pop_back(); }},
      {"depth 9", [](auto& m) { m.depth[2] = 9; }},
      {"bytes of codes", [](auto& m) { m.depth[1] = 0; }},
      {"scales", [](auto& m) { m.scale.push_back(1); }},
      {"scales", [](auto& m) { m.scale.clear(); }},
      {"scale 3", [&](auto& m) { m.scale[3] = infinity; }},
      {"means", [](auto& m) { m.mean.pop_back(); }},
      {"mean 0", [&](auto& m) { m.mean[0] = nan; }},
      {"table of depth 3", [](auto& m) { m.table[3].clear(); }},
      {"table of depth 3", [](auto& m) { m.table[3].pop_back(); }},
      {"table of depth 1", [&](auto& m) { m.table[1][1] = -infinity; }},
      {"table of depth 5", [](auto& m) { m.table[5].resize(31); }},
      {"table of depth 0", [](auto& m) { m.table[0].resize(2); }},
      {"bytes of codes", [](auto& m) { m.codes.pop_back(); }},
      {"bytes of codes", [](auto& m) { m.codes.push_back(0); }},
  };
  for (size_t i = 0; i < breakages.size(); ++i) {
    PackedMatrix matrix = SmallMatrix();
    breakages[i].apply(matrix);
    const Status status = matrix.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_THAT(std::string(status.message()), HasSubstr(breakages[i].message)) << i;
  }
  EXPECT_TRUE(SmallMatrix().Validate().ok());
}

TEST(PackedMatrixTest, UnusedTablesMayBeEmptyAndClustersLargerThanTheMatrix) {
  PackedMatrix matrix = SmallMatrix();
  matrix.cluster_size = 256;
  EXPECT_TRUE(matrix.Validate().ok()) << matrix.Validate();
  matrix.depth = {0, 0, 0, 0};
  matrix.codes.clear();
  for (auto& table : matrix.table) table.clear();
  EXPECT_TRUE(matrix.Validate().ok()) << matrix.Validate();
  EXPECT_THAT(Decode(matrix), ElementsAre(0.5f, 0, -7, 0.25f, 0.5f, 0, -7, 0.25f));
}

}  // namespace
}  // namespace cvxq
