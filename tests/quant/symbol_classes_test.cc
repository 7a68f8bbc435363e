#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/entropy_tables.h"
#include "quant/scaled_codes.h"
#include "quant/scaled_format.h"
#include "tests/quant/quant_testing.h"
#include "tests/quant/scaled_testing.h"

namespace cvxq {
namespace {

TEST(SymbolClasses, FollowTheSpread) {
  // Octaves apart from row to row and from column to column: classes are four steps apart.
  constexpr int64_t kSize = 600;
  ScaledCodes codes{.rows = kSize, .columns = kSize};
  Draws draws(1);
  for (int64_t r = 0; r < kSize; ++r) {
    for (int64_t c = 0; c < kSize; ++c) {
      const float spread = std::exp2(static_cast<float>(r % 3) - static_cast<float>(c % 2));
      codes.integers.push_back(static_cast<int16_t>(std::lround(3 * spread * draws.Normal())));
    }
  }
  AssignClasses(codes);
  for (int64_t r = 3; r < kSize; ++r) {
    EXPECT_NEAR(codes.row_class[r] - codes.row_class[0], 4 * (r % 3), 1) << r;
    EXPECT_NEAR(codes.column_class[r] - codes.column_class[0], -4 * (r % 2), 1) << r;
  }
  // b = E|k| = 3 sqrt(2 / pi) = 2.4 = 2^(21 / 4 - 4).
  EXPECT_NEAR(SymbolClass(codes.row_class[0], codes.column_class[0]), 21, 1);
}

TEST(SymbolClasses, DeadLinesAreOfTheLowestClass) {
  ScaledCodes codes = RandomCodes(100, 120, 0, 3, 2);
  for (int64_t c = 0; c < 120; ++c) codes.integers[7 * 120 + c] = 0;
  for (int64_t r = 0; r < 100; ++r) {
    for (int64_t c = 20; c < 60; ++c) codes.integers[r * 120 + c] = 0;
  }
  AssignClasses(codes);
  for (int64_t c = 0; c < 120; ++c)
    EXPECT_EQ(SymbolClass(codes.row_class[7], codes.column_class[c]), 0);
  for (int64_t r = 0; r < 100; ++r) {
    EXPECT_EQ(SymbolClass(codes.row_class[r], codes.column_class[30]), 0);
    if (r != 7) {
      EXPECT_NEAR(SymbolClass(codes.row_class[r], codes.column_class[70]), 22, 12);
    }
  }
}

TEST(SymbolClasses, ZerosAndHugeIntegersAreInRange) {
  ScaledCodes codes = RandomCodes(20, 30, 0, 0, 3);
  EXPECT_EQ(SymbolClass(codes.row_class[0], codes.column_class[0]), 0);
  std::fill(codes.integers.begin(), codes.integers.end(), int16_t{-32767});
  AssignClasses(codes);
  EXPECT_EQ(SymbolClass(codes.row_class[0], codes.column_class[0]), kSymbolClasses - 1);
  const EntropyTables tables = TablesOf(codes);
  RefineClasses(codes, tables);
  EXPECT_EQ(SymbolClass(codes.row_class[0], codes.column_class[0]), kSymbolClasses - 1);
}

TEST(SymbolClasses, RefinementSavesBytesAndSettles) {
  for (const int64_t trellis_rows : {0, 64}) {
    ScaledCodes codes = RandomCodes(300, 400, trellis_rows, 1, 4);
    // Classes that are off.
    Draws draws(5);
    for (int8_t& c : codes.row_class) c = static_cast<int8_t>(c + draws.Below(5)) - 2;
    const auto bytes = [&] {
      const EntropyTables tables = TablesOf(codes);
      return ScaledMatrixBytes(codes, tables) + static_cast<int64_t>(tables.Serialize().size());
    };
    const int64_t before = bytes();
    int rounds = 0;
    while (rounds < 30 && RefineClasses(codes, TablesOf(codes))) ++rounds;
    EXPECT_GE(rounds, 1);
    EXPECT_LT(bytes(), before - 100);
    AssignClasses(codes);
    const int64_t assigned = bytes();
    RefineClasses(codes, TablesOf(codes));
    EXPECT_LE(bytes(), assigned);
  }
}

// With a trellis of one row, the order of rows tells nothing.
TEST(SymbolClasses, RefinementStartsAnewWithTheTrellis) {
  ScaledCodes codes = RandomCodes(60, 80, 1, 1, 6);
  ScaledCodes reversed = codes;
  for (int64_t r = 0; r < 60; ++r) {
    std::copy_n(&codes.integers[r * 80], 80, &reversed.integers[(59 - r) * 80]);
  }
  std::ranges::reverse(reversed.row_class);
  const EntropyTables tables = TablesOf(RandomCodes(60, 80, 0, 2, 7));
  EXPECT_TRUE(RefineClasses(codes, tables));
  RefineClasses(reversed, tables);
  std::ranges::reverse(reversed.row_class);
  EXPECT_EQ(codes.row_class, reversed.row_class);
  EXPECT_EQ(codes.column_class, reversed.column_class);
}

}  // namespace
}  // namespace cvxq
