// Launch geometry covers every element once and stays within what all cards take.
#include "kernels/cuda/geometry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace cvxq::cuda {
namespace {

TEST(CudaGeometryTest, NothingIsNoLaunch) {
  EXPECT_TRUE(ElementGrid(0).empty());
  EXPECT_TRUE(RowGrid(0, 64).empty());
  EXPECT_TRUE(ColumnGrid(0, 64).empty());
  EXPECT_TRUE(ColumnGrid(64, 0).empty());
}

TEST(CudaGeometryTest, ElementsHaveAThreadUpToTheLargestGrid) {
  for (int64_t count : {1, 255, 256, 257, 1 << 20}) {
    const Grid grid = ElementGrid(count);
    EXPECT_TRUE(grid.Launchable());
    EXPECT_GE(grid.x * grid.threads, count);
    EXPECT_LT((grid.x - 1) * grid.threads, count);
  }
  EXPECT_EQ(ElementGrid(int64_t{1} << 40).x, kElementBlocks);
}

TEST(CudaGeometryTest, RowsHaveAWarpOrABlock) {
  EXPECT_EQ(RowGrid(9, 1024).x, 2);  // eight warps in a block
  EXPECT_EQ(RowGrid(9, 1025).x, 9);
  EXPECT_TRUE(RowGrid(int64_t{1} << 24, 128).Launchable());
}

TEST(CudaGeometryTest, ColumnPieces) {
  const Grid grid = ColumnGrid(kColumnRows + 1, kColumnTile + 1);
  EXPECT_EQ(grid.x, 2);
  EXPECT_EQ(grid.y, 2);
  EXPECT_TRUE(ColumnGrid(int64_t{1} << 23, 1 << 20).Launchable());
}

TEST(CudaGeometryTest, StripsFitTheCache) {
  EXPECT_EQ(StripRows(100, 64), 100);
  EXPECT_EQ(StripRows(4096, 4096), 2048);
  EXPECT_EQ(StripRows(11008, 11008) % 128, 0);
  EXPECT_LE(StripRows(11008, 11008) * 11008 * 4, kStripBytes);
  EXPECT_EQ(StripRows(1000, int64_t{1} << 30), 128);  // never less
}

TEST(CudaGeometryTest, WarpsOfAGroupHaveEightRows) {
  EXPECT_EQ(GroupWarps(1024, 172), 1);
  EXPECT_EQ(GroupWarps(1024, 64), 2);
  EXPECT_EQ(GroupWarps(1024, 16), 8);
  EXPECT_EQ(GroupWarps(1 << 20, 2), 8);
  EXPECT_EQ(GroupWarps(1, 1 << 20), 1);
}

TEST(CudaGeometryTest, KeysAndQueriesSeeEachOther) {
  const int T = 40;
  for (int window : {1, 2, 7, 39, 40}) {
    for (int first = 0; first < T; ++first) {
      for (int last = first; last < T && last < first + 9; ++last) {
        int key_begin = T, key_end = 0, query_begin = T, query_end = 0;
        for (int i = first; i <= last; ++i) {
          for (int j = 0; j < T; ++j) {
            if (j <= i && i - j < window) {
              key_begin = std::min(key_begin, j);
              key_end = std::max(key_end, j + 1);
            }
            if (i <= j && j - i < window) {
              query_begin = std::min(query_begin, j);
              query_end = std::max(query_end, j + 1);
            }
          }
        }
        const Span keys = KeysSeen(first, last, window);
        const Span queries = QueriesSeeing(first, last, window, T);
        EXPECT_EQ(keys.begin, key_begin);
        EXPECT_EQ(keys.end, key_end);
        EXPECT_EQ(queries.begin, query_begin);
        EXPECT_EQ(queries.end, query_end);
      }
    }
  }
}

TEST(CudaGeometryTest, WavesTakeEachTileOnceAfterThoseItNeeds) {
  for (int64_t rows : {1, 2, 5}) {
    for (int64_t columns : {1, 3, 5}) {
      std::vector<int64_t> wave_of(rows * columns, -1);
      for (int64_t wave = 0; wave < Waves(rows, columns); ++wave) {
        const Wave tiles = WaveOf(wave, rows, columns);
        EXPECT_GT(tiles.count, 0);
        for (int64_t i = 0; i < tiles.count; ++i) {
          const int64_t row = tiles.first_row + i, column = tiles.first_column + i;
          ASSERT_LT(row, rows);
          ASSERT_LT(column, columns);
          EXPECT_EQ(wave_of[row * columns + column], -1);
          wave_of[row * columns + column] = wave;
          if (row > 0) {
            EXPECT_EQ(wave_of[(row - 1) * columns + column], wave - 1);
          }
          if (column + 1 < columns) {
            EXPECT_EQ(wave_of[row * columns + column + 1], wave - 1);
          }
        }
      }
      for (const int64_t wave : wave_of) EXPECT_NE(wave, -1);
    }
  }
}

TEST(CudaGeometryTest, PaddingOfHeads) {
  for (int head_dim = 2; head_dim <= 256; head_dim += 2) {
    EXPECT_GE(PaddedHeadDim(head_dim), head_dim);
    EXPECT_EQ(PaddedHeadDim(head_dim) % 32, 0);
  }
  EXPECT_EQ(PaddedHeadDim(80), 96);
  EXPECT_EQ(PaddedHeadDim(7), 0);
  EXPECT_EQ(PaddedHeadDim(258), 0);
  EXPECT_EQ(PaddedTokens(0), 0);
  EXPECT_EQ(PaddedTokens(129), 256);
}

TEST(CudaGeometryTest, TilesOfTheTrellisFitEveryCard) {
  constexpr int64_t kShared = 99 << 10;  // compute capability 8.6 to 12.0
  constexpr int kClasses = 48;
  EXPECT_LE(4 * (TileFloats(128, 32) + TrellisSharedFloats(128, kClasses, true)), kShared);
  EXPECT_LE(4 * (TileFloats(256, 32) + TrellisSharedFloats(256, kClasses, false)), kShared);
  EXPECT_LE(4 * TileFloats(64, 128), kShared);
  EXPECT_EQ(TileLine(64) % 32, 1);
}

TEST(CudaGeometryTest, WhatNoCardTakes) {
  EXPECT_FALSE((Grid{.x = 1, .y = 65536}).Launchable());
  EXPECT_FALSE((Grid{.x = 1, .threads = 100}).Launchable());
  EXPECT_FALSE((Grid{.x = 1, .threads = 2048}).Launchable());
  EXPECT_FALSE((Grid{.x = 0}).Launchable());
}

}  // namespace
}  // namespace cvxq::cuda
