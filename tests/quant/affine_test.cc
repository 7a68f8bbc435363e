#include "quant/affine.h"

#include <gtest/gtest.h>

#include <vector>

#include "tensor/dtype.h"

namespace cvxq {
namespace {

TEST(AffineGrid, RangeAlwaysHoldsZero) {
  const float values[] = {3, 1, 2};
  EXPECT_EQ(RangeOf(values, 3).low, 0);
  EXPECT_EQ(RangeOf(values, 3).high, 3);
  EXPECT_EQ(RangeOf(values, 0).high, 0);
}

TEST(AffineGrid, OfARangeByHand) {
  AffineGrid grid = GridOfRange({-1, 2}, 2);  // -1 0 1 2
  EXPECT_EQ(grid.scale, 1);
  EXPECT_EQ(grid.zero, 1);
  grid = GridOfRange({1.5f, 3}, 2);  // 0 1 2 3
  EXPECT_EQ(grid.scale, 1);
  EXPECT_EQ(grid.zero, 0);
  grid = GridOfRange({-30, -15}, 4);  // -30 ... 0 by 2
  EXPECT_EQ(grid.scale, 2);
  EXPECT_EQ(grid.zero, 15);
  EXPECT_EQ(grid.Value(0), -30);
  grid = GridOfRange({0, 25.5f}, 8);
  EXPECT_EQ(grid.scale, F16ToFloat(FloatToF16(0.1f)));
}

TEST(AffineGrid, RoundsToTheNearestAndStopsAtTheEnds) {
  const AffineGrid grid = GridOfRange({-1, 2}, 2);
  EXPECT_EQ(grid.Code(-0.6f, 2), 0);
  EXPECT_EQ(grid.Code(-0.4f, 2), 1);
  EXPECT_EQ(grid.Code(0.5f, 2), 1);  // ties to even multiples of the scale
  EXPECT_EQ(grid.Code(1.5f, 2), 3);
  EXPECT_EQ(grid.Code(1e30f, 2), 3);
  EXPECT_EQ(grid.Code(-1e30f, 2), 0);
  EXPECT_EQ(grid.Value(grid.Code(0, 2)), 0);
}

TEST(AffineGrid, ExtremeRangesHaveSoundGrids) {
  const float ranges[][2] = {{0, 0},      {-1e-30f, 1e-30f}, {0, 1e-9f},
                             {0, 3e38f},  {-3e38f, 3e38f},   {-3e38f, 0},
                             {-1e-5f, 1}, {-65504, 65504},   {-1e-7f, 0}};
  for (const auto& range : ranges) {
    for (int bits = 2; bits <= 8; ++bits) {
      const AffineGrid grid = GridOfRange({range[0], range[1]}, bits);
      AffineMatrix m = StartAffineMatrix(1, 2, bits, 2);
      SetGrid(m, 0, grid);
      for (int i = 0; i < 2; ++i) m.codes[i] = static_cast<uint8_t>(grid.Code(range[i], bits));
      EXPECT_TRUE(m.Validate().ok()) << m.Validate();
      EXPECT_EQ(grid.Value(grid.Code(0, bits)), 0);
      EXPECT_EQ(grid.scale > 0, range[0] < range[1]);
    }
  }
  EXPECT_EQ(GridOfRange({0, 0}, 4).Code(5, 4), 0);  // a scale of 0 holds 0 alone
}

TEST(AffineGrid, TrimsMoreOffFewBitsAndLargeGroups) {
  EXPECT_EQ(TrimmedShare(8, 64), 1);
  EXPECT_EQ(TrimmedShare(4, 16), 1);
  EXPECT_LT(TrimmedShare(2, 64), TrimmedShare(3, 64));
  EXPECT_LT(TrimmedShare(3, 256), TrimmedShare(3, 64));
  EXPECT_GE(TrimmedShare(2, 2147483647), 0.5f);
}

TEST(AffineGrid, FitsGroupsWithoutSkippedColumnsAndRounds) {
  ThreadPool pool(2);
  const std::vector<float> w = {-1, 2, 100, 0, 0, /**/ 0, 4, -100, 6, 1};
  AffineMatrix m = StartAffineMatrix(2, 5, 2, 3);
  FitGrids(w.data(), 1, {0, 0, 1, 0, 0}, pool, m);
  EXPECT_EQ(m.scale, (std::vector<float>{1, 0, F16ToFloat(FloatToF16(4.0f / 3)), 2}));
  EXPECT_EQ(m.zero, (std::vector<uint8_t>{1, 0, 0, 0}));
  RoundToNearest(w.data(), pool, m);
  EXPECT_EQ(m.codes, (std::vector<uint8_t>{0, 3, 3, 0, 0, 0, 3, 0, 3, 0}));
  FitGrids(w.data(), 0.5f, {0, 0, 1, 0, 0}, pool, m);
  EXPECT_EQ(m.scale[0], 0.5f);
  EXPECT_EQ(m.scale[3], 1);
}

}  // namespace
}  // namespace cvxq
