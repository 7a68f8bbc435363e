// The affine form itself: the plain decoder, refusal of broken matrices.
#include "kernels/affine_matrix.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cvxq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two rows, five columns in groups of three and two.
AffineMatrix SmallMatrix() {
  AffineMatrix m;
  m.rows = 2;
  m.columns = 5;
  m.bits = 3;
  m.group = 3;
  m.codes = {0, 1, 7, 3, 4, /**/ 5, 0, 2, 7, 1};
  m.scale = {0.5f, 2, /**/ 0, 0.25f};
  m.zero = {1, 3, /**/ 0, 7};
  return m;
}

TEST(AffineMatrixTest, DecodesByHand) {
  AffineMatrix m = SmallMatrix();
  ASSERT_TRUE(m.Validate().ok()) << m.Validate();
  EXPECT_EQ(m.group_count(), 2);
  EXPECT_THAT(Decode(m), ElementsAre(-0.5f, 0, 3, 0, 2, 0, 0, 0, 0, -1.5f));
  m.column_scale = {1, 2, 4, 1, 0.5f};
  ASSERT_TRUE(m.Validate().ok()) << m.Validate();
  EXPECT_THAT(Decode(m), ElementsAre(-0.5f, 0, 0.75f, 0, 4, 0, 0, 0, 0, -3));
  m.column_scale.clear();
  m.kept_columns = {1, 4};
  m.kept = {10, 11, 12, 13};
  m.codes[1] = m.codes[4] = m.codes[9] = 0;
  ASSERT_TRUE(m.Validate().ok()) << m.Validate();
  EXPECT_THAT(Decode(m), ElementsAre(-0.5f, 10, 3, 0, 11, 0, 12, 0, 0, 13));
}

TEST(AffineMatrixTest, DividesAfterTheProductIsRounded) {
  AffineMatrix m;
  m.rows = m.columns = m.group = 1;
  m.bits = 8;
  m.codes = {255};
  m.zero = {0};
  m.scale = {0.0999755859375f};
  m.column_scale = {3};
  const float product = 255 * m.scale[0];
  EXPECT_THAT(Decode(m), ElementsAre(product / 3));
}

struct Breakage {
  std::string message;  // a part of the expected one
  std::function<void(AffineMatrix&)> apply;
};

TEST(AffineMatrixTest, ValidateRefusesEveryBrokenInvariant) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<Breakage> breakages = {
      {"shape", [](auto& m) { m.rows = 0; }},
      {"shape", [](auto& m) { m.columns = -1; }},
      {"shape", [&](auto& m) { m.rows = m.columns = huge; }},
      {"codes", [](auto& m) { m.rows = m.columns = 2147483647; }},
      {"codes", [](auto& m) { m.rows = 3; }},
      {"width", [](auto& m) { m.bits = 1; }},
      {"width", [](auto& m) { m.bits = 9; }},
      {"groups of", [](auto& m) { m.group = 0; }},
      {"groups of", [&](auto& m) { m.group = huge; }},
      {"scales", [](auto& m) { m.group = 2; }},
      {"scales", [](auto& m) { m.scale.pop_back(); }},
      {"zero points", [](auto& m) { m.zero.push_back(0); }},
      {"code 3 does not fit", [](auto& m) { m.codes[3] = 8; }},
      {"zero point 1 does not fit", [](auto& m) { m.zero[1] = 8; }},
      {"scale 2", [&](auto& m) { m.scale[2] = nan; }},
      {"scale 2", [&](auto& m) { m.scale[2] = infinity; }},
      {"scale 2", [](auto& m) { m.scale[2] = -1; }},
      {"scale 2", [](auto& m) { m.scale[2] = 0.1f; }},  // not a half
      {"column scales", [](auto& m) { m.column_scale = {1}; }},
      {"column scale 4",
       [](auto& m) {
         m.column_scale = {1, 1, 1, 1, 0};
       }},
      {"column scale 0",
       [](auto& m) {
         m.column_scale = {-1, 1, 1, 1, 1};
       }},
      {"column scale 1",
       [&](auto& m) {
         m.column_scale = {1, nan, 1, 1, 1};
       }},
      {"kept values", [](auto& m) { m.kept_columns = {1}; }},
      {"kept values", [](auto& m) { m.kept = {1}; }},
      {"kept columns", [](auto& m) { m.kept_columns.resize(6); }},
      {"kept column 5",
       [](auto& m) {
         m.kept_columns = {5};
         m.kept = {1, 1};
       }},
      {"kept column -1",
       [](auto& m) {
         m.kept_columns = {-1};
         m.kept = {1, 1};
       }},
      {"not above",
       [](auto& m) {
         m.kept_columns = {1, 1};
         m.codes[1] = 0;
         m.kept = {1, 1, 1, 1};
       }},
      {"has a code in row 0",
       [](auto& m) {
         m.kept_columns = {1};
         m.kept = {1, 1};
       }},
      {"kept value 1",
       [&](auto& m) {
         m.kept_columns = {1};
         m.codes[1] = 0;
         m.kept = {1, infinity};
       }},
  };
  for (size_t i = 0; i < breakages.size(); ++i) {
    AffineMatrix m = SmallMatrix();
    breakages[i].apply(m);
    const Status status = m.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_THAT(std::string(status.message()), HasSubstr(breakages[i].message)) << i;
  }
}

}  // namespace
}  // namespace cvxq
