// Products with packed matrices are shared among warps: everything once, and about as much for
// each.
#include "kernels/cuda/packed_shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/packed_test_matrix.h"

namespace cvxq::cuda {
namespace {

// All that must hold, for any matrix and number of warps.
void ExpectShares(const ColumnLayout& layout, StepFields fields, int64_t warps) {
  SCOPED_TRACE(absl::StrCat(warps, " warps, ", layout.strips, " strips"));
  const Shares shares = ShareSteps(layout, fields, warps);
  ASSERT_GE(static_cast<int64_t>(shares.pieces.size()), warps);
  ASSERT_EQ(static_cast<int64_t>(shares.parts.size()), layout.tiles());

  std::map<std::tuple<int32_t, int32_t, int64_t>, int> steps;  // tile, depth, first word or step
  std::map<int32_t, std::vector<int32_t>> parts;               // by tile, in the order of warps
  std::map<int32_t, int> whole;
  size_t seen = 0;
  for (int64_t warp = 0; warp < warps; ++warp) {
    bool goes_on = false;
    int32_t tile = Piece::kNone;
    for (auto at = static_cast<int32_t>(warp); at != Piece::kNone; at = shares.pieces[at].next) {
      const Piece& piece = shares.pieces.at(at);
      ++seen;
      if (piece.tile == Piece::kNone) {
        EXPECT_EQ(piece.next, Piece::kNone);
        break;
      }
      if (goes_on) {
        EXPECT_EQ(piece.tile, tile);
      }
      tile = piece.tile;
      for (int32_t k = 0; k * kStepLines < piece.lines; ++k) {
        ++steps[{tile, piece.depth, piece.step + k}];
      }
      goes_on = piece.part == Piece::kTileGoesOn;
      if (piece.part == Piece::kWholeTile) ++whole[tile];
      if (piece.part >= 0) parts[tile].push_back(piece.part);
    }
    EXPECT_FALSE(goes_on) << "the last piece leaves its sums";
  }
  EXPECT_EQ(seen, shares.pieces.size());

  size_t expected_steps = 0;
  for (int32_t tile = 0; tile < layout.tiles(); ++tile) {
    const LineCounts& counts = layout.counts[layout.tile_cluster[tile]];
    int64_t step = layout.first_position[layout.tile_cluster[tile]] / kStepLines;
    for (int b = kMaxDepth; b >= 0; --b) {
      for (int32_t k = 0; k < RunSteps(counts.lines[b]); ++k, ++expected_steps) {
        EXPECT_EQ((steps[{tile, b, step++}]), 1);
      }
    }
    if (shares.parts[tile].count == 0) {
      EXPECT_EQ(whole[tile], 1);
      EXPECT_EQ(parts.count(tile), 0u);
      continue;
    }
    EXPECT_EQ(whole.count(tile), 0u);
    ASSERT_EQ(parts[tile].size(), shares.parts[tile].count);
    for (int32_t k = 0; k < shares.parts[tile].count; ++k) {
      EXPECT_EQ(parts[tile][k], shares.parts[tile].first + k);
      EXPECT_LT(parts[tile][k], shares.part_count);
    }
  }
  EXPECT_EQ(steps.size(), expected_steps);
}

TEST(CudaPackedSharesTest, EveryStepOnceAndEveryTileWritten) {
  uint64_t key = 0;
  for (const int64_t cluster_size : {1, 16, 64, 100}) {
    for (const bool means : {false, true}) {
      for (const int min_depth : {0, 3}) {
        const PackedMatrix matrix = RandomPackedMatrix(
            {130, 600, cluster_size, Partition::kColumns, means, min_depth, 4}, ++key);
        for (const int strips : {1, 2, 4}) {
          const ColumnLayout layout = LayOutColumns(matrix, strips);
          for (const int64_t warps : {1, 2, 7, 64, 1000}) {
            ExpectShares(layout, StepFields(false, means), warps);
          }
        }
      }
    }
  }
}

TEST(CudaPackedSharesTest, TilesWithoutLinesAreWrittenToo) {
  const PackedMatrix matrix = RandomPackedMatrix({70, 20, 16, Partition::kColumns, false, 0, 0}, 1);
  const ColumnLayout layout = LayOutColumns(matrix, 1);
  EXPECT_EQ(StepCount(layout), 0);
  for (const int64_t warps : {1, 3, 50}) ExpectShares(layout, StepFields(), warps);
}

TEST(CudaPackedSharesTest, WarpsHaveAboutAsMuch) {
  const PackedMatrix matrix =
      RandomPackedMatrix({256, 4096, 64, Partition::kColumns, false, 1, 4}, 1);
  const ColumnLayout layout = LayOutColumns(matrix, 4);
  constexpr int64_t kWarps = 20;
  const Shares shares = ShareSteps(layout, StepFields(), kWarps);
  std::vector<int64_t> words(kWarps);
  for (int64_t warp = 0; warp < kWarps; ++warp) {
    for (auto at = static_cast<int32_t>(warp); at != Piece::kNone; at = shares.pieces[at].next) {
      const Piece& piece = shares.pieces[at];
      words[warp] += RunWords(piece.lines, piece.depth, layout.strips) +
                     RunSteps(piece.lines) * StepFields().words;
    }
  }
  const auto [least, most] = std::minmax_element(words.begin(), words.end());
  // Shares are in order of depth; shallow steps are as many instructions for fewer bytes.
  EXPECT_LT(*most, 1.7 * *least);
}

}  // namespace
}  // namespace cvxq::cuda
