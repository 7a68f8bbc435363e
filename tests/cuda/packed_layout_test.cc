// The layout of packed matrices on a GPU loses nothing and overlaps nowhere.
#include "kernels/cuda/packed_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/packed_columns.h"
#include "tests/kernels/packed_test_matrix.h"

namespace cvxq::cuda {
namespace {

TEST(CudaPackedLayoutTest, CodesOfARunFillItsWords) {
  for (int strips : {1, 2, 4}) {
    for (int depth = 1; depth <= kMaxDepth; ++depth) {
      const int32_t lines = kStepLines + GroupLines(strips);
      std::vector<int> taken(RunWords(lines, depth, strips) * 32);
      for (int32_t position = 0; position < lines; ++position) {
        for (int row = 0; row < kStripRows * strips; ++row) {
          const CodePlace place = PlaceOfCode(position, row, strips);
          for (int k = 0; k < depth; ++k) {
            const int bit = BitOfCode(place.index, k, depth);
            if (k > 0 && IsWhole(place.index, depth)) {
              EXPECT_EQ(bit, BitOfCode(place.index, k - 1, depth) + 1);
            }
            ++taken.at(WordOfQuarter(place.quarter, bit / 32, place.lane, depth) * 32 + bit % 32);
          }
        }
      }
      for (int count : taken) ASSERT_EQ(count, 1) << strips << " strips, depth " << depth;
    }
  }
}

TEST(CudaPackedLayoutTest, ALaneHasWhatItGivesToAProduct) {
  // MmaInt8: lane 4 g + t has (g, 4t..), (g+8, 4t..), (g, 4t+16..), (g+8, 4t+16..), four each.
  for (int strips : {1, 2, 4}) {
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int k = 0; k < 4; ++k) {
        const int places[4][2] = {
            {4 * t + k, g}, {4 * t + k, g + 8}, {4 * t + k + 16, g}, {4 * t + k + 16, g + 8}};
        for (int four = 0; four < 4; ++four) {
          const CodePlace place = PlaceOfCode(places[four][0], places[four][1], strips);
          EXPECT_EQ(place.quarter, 0);
          EXPECT_EQ(place.lane, lane);
          EXPECT_EQ(place.index, 4 * four + k);
        }
      }
    }
  }
  EXPECT_EQ(PlaceOfCode(0, 16, 4).index, 16);   // the next strip
  EXPECT_EQ(PlaceOfCode(0, 32, 4).quarter, 1);  // the one after it
  EXPECT_EQ(PlaceOfCode(32, 0, 4).quarter, 2);  // the next lines
  EXPECT_EQ(PlaceOfCode(32, 16, 2).quarter, 1);
  EXPECT_EQ(PlaceOfCode(32, 0, 1).index, 16);
  EXPECT_EQ(PlaceOfCode(64, 0, 1).quarter, 1);
}

TEST(CudaPackedLayoutTest, LevelsAreTheirBytes) {
  const PackedMatrix matrix = RandomPackedMatrix({20, 64, 16, Partition::kColumns, false, 1, 8}, 3);
  for (const bool integers : {false, true}) {
    const Levels levels = integers ? LevelsInIntegers(matrix) : LevelsInBF16(matrix);
    for (int b = 1; b <= kMaxDepth; ++b) {
      const std::vector<float>& table = matrix.table[b];
      float most = 0;
      for (const float value : table) most = std::max(most, std::abs(value));
      for (size_t i = 0; i < table.size(); ++i) {
        const uint16_t bits = levels.values[FirstOfTable(b) + i];
        if (b <= kMaxOctetDepth) {
          const auto byte = [&](const uint32_t(&words)[4]) {
            return words[i / 4] >> (i % 4 * 8) & 255;
          };
          EXPECT_EQ(byte(levels.octets[b].low) + 256 * byte(levels.octets[b].high), bits);
        }
        if (integers) {
          const int level = static_cast<int8_t>(bits) + 256 * static_cast<int8_t>(bits >> 8);
          EXPECT_NEAR(level * levels.unit[b], table[i], most / 65000);
        } else {
          EXPECT_EQ(bits, FloatToBF16(table[i]));
        }
      }
    }
  }
}

std::vector<RandomPackedSpec> Specs(Partition partition) {
  std::vector<RandomPackedSpec> specs;
  for (bool means : {false, true}) {
    for (int64_t cluster_size : {1, 13, 16, 64, 100}) {
      specs.push_back({70, 301, cluster_size, partition, means});
    }
    specs.push_back({64, 512, 64, partition, means, 3, 3});
  }
  return specs;
}

TEST(CudaPackedLayoutTest, ColumnsHoldTheMatrix) {
  uint64_t key = 0;
  for (const RandomPackedSpec& spec : Specs(Partition::kColumns)) {
    const PackedMatrix matrix = RandomPackedMatrix(spec, ++key);
    const std::vector<float> expected = Decode(matrix);
    for (int strips : {1, 2, 4}) {
      SCOPED_TRACE(absl::StrCat(strips, " strips, clusters of ", spec.cluster_size));
      const ColumnLayout layout = LayOutColumns(matrix, strips);
      std::vector<float> decoded(expected.size());
      for (int64_t tile = 0; tile < layout.tiles(); ++tile) {
        const int32_t cluster = layout.tile_cluster[tile];
        int64_t position = layout.first_position[cluster], word = layout.tile_word[tile];
        for (int b = kMaxDepth; b >= 0; --b) {
          const int32_t lines = layout.counts[cluster].lines[b];
          for (int row = 0; row < layout.tile_rows(); ++row) {
            const int32_t to = layout.rows[tile * layout.tile_rows() + row];
            for (int32_t k = 0; k < lines && to >= 0; ++k) {
              float value = 0;
              if (b > 0) {
                const CodePlace place = PlaceOfCode(k, row, strips);
                uint32_t code = 0;
                for (int i = 0; i < b; ++i) {
                  const int bit = BitOfCode(place.index, i, b);
                  code |= (layout.words.at(word +
                                           WordOfQuarter(place.quarter, bit / 32, place.lane, b)) >>
                               (bit % 32) &
                           1)
                          << i;
                }
                value = layout.scale[position + k] * matrix.table[b][code];
              }
              if (!layout.mean.empty()) value += layout.mean[position + k];
              decoded[to * matrix.columns + layout.line[position + k]] = value;
            }
          }
          position += RunPositions(lines);
          word += RunWords(lines, b, strips);
        }
      }
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(decoded[i]), std::bit_cast<uint32_t>(expected[i])) << i;
      }
    }
  }
}

TEST(CudaPackedLayoutTest, RowsHoldTheMatrix) {
  uint64_t key = 100;
  for (const RandomPackedSpec& spec : Specs(Partition::kRows)) {
    const PackedMatrix matrix = RandomPackedMatrix(spec, ++key);
    const std::vector<float> expected = Decode(matrix);
    const RowLayout layout = LayOutRows(matrix);
    const int64_t clusters = matrix.cluster_count();
    for (int64_t j = 0; j < matrix.rows; ++j) {
      for (int64_t c = 0; c < clusters; ++c) {
        const int64_t group = j * clusters + c;
        const int b = layout.depth[group];
        for (int64_t i = matrix.cluster_begin(c); i < matrix.cluster_end(c); ++i) {
          float value = 0;
          if (b > 0) {
            uint32_t code = 0;
            for (int k = 0; k < b; ++k) {
              const int64_t bit = (i - matrix.cluster_begin(c)) * b + k;
              code |= (layout.words.at(layout.row_word[j] + layout.group_word[group] + bit / 32) >>
                           (bit % 32) &
                       1)
                      << k;
            }
            value = layout.scale[group] * matrix.table[b][code];
          }
          if (!layout.mean.empty()) value += layout.mean[group];
          ASSERT_EQ(value, expected[j * matrix.columns + matrix.members[i]]);
        }
      }
    }
  }
}

TEST(CudaPackedLayoutTest, WholeClustersOfFourStripsWasteNothing) {
  const PackedMatrix matrix = RandomPackedMatrix(
      {.rows = 128, .columns = 1024, .cluster_size = 64, .min_depth = 3, .max_depth = 3}, 1);
  EXPECT_EQ(LayOutColumns(matrix, 4).words.size() * sizeof(uint32_t), matrix.codes.size());
}

TEST(CudaPackedLayoutTest, StripsFillUpLittle) {
  EXPECT_EQ(StripsFor(28672, 64), 4);
  EXPECT_EQ(StripsFor(4096, 256), 4);
  EXPECT_EQ(StripsFor(28672, 16), 1);  // tiles are within clusters
  EXPECT_EQ(StripsFor(28672, 13), 1);
  EXPECT_EQ(StripsFor(28672, 32), 2);
  EXPECT_EQ(StripsFor(100, 64), 1);  // the last cluster has 36 rows
  EXPECT_EQ(StripsFor(0, 64), 4);
}

TEST(CudaPackedLayoutTest, FieldsOfAStepStandTogether) {
  for (const bool means : {false, true}) {
    const ColumnLayout layout =
        LayOutColumns(RandomPackedMatrix({40, 301, 16, Partition::kColumns, means, 0, 3}, 9), 1);
    for (const bool wide : {false, true}) {
      const StepFields fields(wide, means);
      EXPECT_EQ(fields.words % 4, 0);
      const std::vector<uint32_t> words = JoinFields(layout, fields);
      ASSERT_EQ(words.size(), layout.line.size() / kStepLines * fields.words);
      for (size_t i = 0; i < layout.line.size(); ++i) {
        const uint32_t* step = words.data() + i / kStepLines * fields.words;
        const size_t k = i % kStepLines;
        EXPECT_EQ(wide ? step[k] : step[k / 2] >> (k % 2 * 16) & 0xffff, layout.line[i]);
        EXPECT_EQ(std::bit_cast<float>(step[fields.scale_word + k]), layout.scale[i]);
        if (means) {
          EXPECT_EQ(std::bit_cast<float>(step[fields.mean_word + k]), layout.mean[i]);
        }
      }
    }
  }
}

TEST(CudaPackedLayoutTest, AProductTakesWhatACardHas) {
  constexpr int64_t kLarge = 227 << 10, kSmall = 99 << 10;
  const TablePlaces three = PlaceTables(1 << 3), all = PlaceTables(0x1fe);
  const ProductPlan large = PlanProduct(1 << 15, 4, 3, StepFields(), three, 132, kLarge);
  EXPECT_EQ(large.blocks, 132);
  EXPECT_EQ(large.warps, kMaxProductWarps);
  // 4096 x 4096: each warp has one step.
  EXPECT_EQ(PlanProduct(64 * 32, 4, 3, StepFields(), three, 132, kLarge).warps, 16);
  EXPECT_EQ(PlanProduct(3, 4, 3, StepFields(), three, 132, kLarge).blocks, 3);
  EXPECT_EQ(PlanProduct(0, 4, 0, StepFields(), PlaceTables(0), 132, kLarge).blocks, 1);
  EXPECT_GT(PlanProduct(1 << 15, 4, 4, StepFields(), PlaceTables(0x1c), 132, kSmall).warps, 3);
  EXPECT_GT(PlanProduct(1 << 15, 4, 8, StepFields(), all, 132, kSmall).warps, 0);
  // Lines that 16 bits cannot name are multiplied in float.
  EXPECT_EQ(PlanProduct(1 << 15, 4, 3, StepFields(true), three, 132, kLarge).warps, 0);
  for (uint32_t depths = 0; depths < 1u << (kMaxDepth + 1); depths += 2) {
    const TablePlaces tables = PlaceTables(depths);
    for (const int64_t limit : {kSmall, kLarge}) {
      const ProductPlan plan = PlanProduct(1 << 15, 4, std::bit_width(depths >> 1),
                                           StepFields(false, true), tables, 132, limit);
      EXPECT_TRUE(plan.warps == 0 || plan.shared_bytes <= limit);
      EXPECT_EQ(plan.ring_bytes % 16, 0);
      // Wherever shared memory begins, everything fits.
      for (int64_t gap = 0; gap < tables.alignment && plan.warps > 0; gap += 16) {
        const int64_t before = std::min<int64_t>(plan.warps, gap / plan.ring_bytes);
        if (tables.alignment <= 16 && gap > 0) break;  // all begin there
        ASSERT_LE(gap + tables.bytes + (plan.warps - before) * plan.ring_bytes, plan.shared_bytes);
      }
    }
  }
}

TEST(CudaPackedLayoutTest, TablesStandAtMultiplesOfTheirSizes) {
  for (uint32_t depths = 0; depths < 1u << (kMaxDepth + 1); depths += 2) {
    const TablePlaces places = PlaceTables(depths);
    std::vector<int> taken(places.bytes / TableBytes(0));
    for (int b = 1; b <= kMaxDepth; ++b) {
      if ((depths >> b & 1) == 0 || b <= kMaxOctetDepth) {
        EXPECT_LT(places.of[b], 0);
        continue;
      }
      EXPECT_EQ(places.of[b] % TableBytes(b), 0);
      EXPECT_EQ(places.alignment % TableBytes(b), 0);
      for (int i = 0; i < TableBytes(b) / TableBytes(0); ++i) {
        ++taken.at(places.of[b] / TableBytes(0) + i);
      }
    }
    for (int count : taken) EXPECT_EQ(count, 1);
  }
}

}  // namespace
}  // namespace cvxq::cuda
