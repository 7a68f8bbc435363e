// Both codecs. What a coder rounded to is seen from outside: replaying error feedback with the
// decoded matrix as the rounding must find every decoded value to be the level nearest to its
// target.
#include "quant/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/thread_pool.h"
#include "quant/feedback.h"
#include "quant/packed_format.h"
#include "quant/scale_grid.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

constexpr int kSteps = 4;

enum class Codec { kLloyd, kCompanded };

const LevelTables& Tables(Codec codec) {
  static const LevelTables lloyd = LloydMaxTables(2), companded = CompanderTables();
  return codec == Codec::kLloyd ? lloyd : companded;
}
struct Linear {
  std::vector<float> w;
  GroupLayout layout;
  std::vector<uint8_t> depth;
};

Linear RandomLinear(int64_t rows, int64_t columns, Partition partition, int64_t cluster_size,
                    uint64_t key, float deviation = 1) {
  Draws draws(key);
  Linear linear;
  linear.w = draws.Normals(rows * columns, deviation);
  linear.layout = MakeGroupLayout(rows, columns, partition, cluster_size,
                                  MemberVariances(rows, columns, partition, linear.w.data()));
  for (int64_t g = 0; g < linear.layout.group_count(); ++g) {
    linear.depth.push_back(static_cast<uint8_t>(draws.Below(kMaxDepth + 1)));
  }
  return linear;
}

CodecInput Input(Codec codec, const Linear& linear, const CurvatureFactor* factor = nullptr) {
  return {.w = linear.w.data(),
          .layout = &linear.layout,
          .depth = &linear.depth,
          .inputs = factor,
          .tables = &Tables(codec),
          .scale_steps = kSteps};
}

PackedMatrix Code(Codec codec, const CodecInput& input, int threads = 1) {
  ThreadPool pool(threads);
  if (codec == Codec::kCompanded) return CodeCompanded(input, pool);
  return CodeLloyd(input, pool, *MakeCpuRounder(pool)).value();
}

int64_t GroupOf(const GroupLayout& layout, const std::vector<int32_t>& cluster, int64_t row,
                int64_t column) {
  const bool by_columns = layout.partition == Partition::kColumns;
  return cluster[by_columns ? row : column] * layout.line_count() + (by_columns ? column : row);
}

// What every packed matrix of a coder must be: valid, on the grids, of the shape and depths asked
// for (a group of zeros may take fewer), and the same after a round trip through the file format.
void ExpectSound(const PackedMatrix& packed, const Linear& linear, Codec codec) {
  ASSERT_TRUE(packed.Validate().ok()) << packed.Validate();
  EXPECT_EQ(packed.rows, linear.layout.rows);
  EXPECT_EQ(packed.columns, linear.layout.columns);
  EXPECT_EQ(packed.members, linear.layout.members);
  EXPECT_EQ(packed.mean.empty(), codec == Codec::kLloyd);
  for (size_t g = 0; g < packed.depth.size(); ++g) {
    EXPECT_TRUE(packed.depth[g] == linear.depth[g] || packed.depth[g] == 0);
    EXPECT_EQ(packed.scale[g], ScaleFromIndex(ScaleToIndex(packed.scale[g], kSteps), kSteps));
    if (packed.mean.empty()) continue;
    EXPECT_EQ(packed.mean[g],
              MeanFromIndex(MeanToIndex(packed.mean[g], packed.scale[g]), packed.scale[g]));
  }
  const TableSet tables[] = {packed.table};
  const StatusOr<PackedMatrix> parsed =
      ParsePackedMatrix(SerializePackedMatrix(packed, kSteps, 0), tables);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(Decode(*parsed), Decode(packed));
}

double SquaredError(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

struct Shape {
  int64_t rows, columns, cluster_size;
};
constexpr Shape kShapes[] = {{1, 1, 1},    {1, 40, 16},  {40, 1, 16},   {3, 5, 2},
                             {70, 37, 16}, {37, 70, 32}, {130, 66, 64}, {64, 64, 100}};
constexpr Partition kPartitions[] = {Partition::kColumns, Partition::kRows};
constexpr Codec kCodecs[] = {Codec::kLloyd, Codec::kCompanded};

TEST(Codecs, PackedMatricesAreSoundForAllShapes) {
  for (const Codec codec : kCodecs) {
    for (const Partition partition : kPartitions) {
      for (const Shape& shape : kShapes) {
        const Linear linear =
            RandomLinear(shape.rows, shape.columns, partition, shape.cluster_size, 1);
        const PackedMatrix packed = Code(codec, Input(codec, linear));
        ExpectSound(packed, linear, codec);
        for (size_t g = 0; g < packed.depth.size(); ++g) {
          // companded prunes where the mean alone is better, which takes groups of a few weights
          if (codec == Codec::kLloyd || linear.layout.members_in(g / packed.line_count()) > 4) {
            EXPECT_EQ(packed.depth[g], linear.depth[g]);
          }
        }
      }
    }
  }
}

// L_O of random outputs for the rows in the order of the layout's members, in blocks of `size`.
std::vector<RowBlock> Blocks(const GroupLayout& layout, int64_t size, bool lower) {
  std::vector<RowBlock> blocks;
  for (int64_t first = 0; first < layout.rows; first += size) {
    RowBlock& block = blocks.emplace_back();
    const int64_t n = std::min(size, layout.rows - first);
    for (int64_t i = first; i < first + n; ++i) {
      block.rows.push_back(layout.partition == Partition::kColumns ? layout.members[i]
                                                                   : static_cast<int32_t>(i));
    }
    if (!lower) continue;
    std::vector<int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    block.lower = FactorInOrder(CorrelatedMoments(n, 3 * n, n), order, 0.2)->lower;
  }
  return blocks;
}

TEST(Codecs, AnyNumberOfThreadsGivesTheSameBytes) {
  constexpr int64_t kRows = 150, kN = 170;
  const CurvatureFactor factor = *FactorCurvature(CorrelatedMoments(kN, 300, 2), kN, 0.01);
  for (const Codec codec : kCodecs) {
    for (const Partition partition : kPartitions) {
      for (const int64_t block : {0, 48, 150}) {
        const Linear linear = RandomLinear(kRows, kN, partition, 16, 2);
        CodecInput input = Input(codec, linear, &factor);
        const std::vector<RowBlock> blocks =
            block > 0 ? Blocks(linear.layout, block, true) : std::vector<RowBlock>();
        input.blocks = blocks;
        const auto one = SerializePackedMatrix(Code(codec, input), kSteps, 0);
        for (const int threads : {2, 5}) {
          EXPECT_EQ(SerializePackedMatrix(Code(codec, input, threads), kSteps, 0), one);
        }
      }
    }
  }
}

// Replays the rounding with the decoded values.
void ExpectNearestToTargets(const Linear& linear, const CodecInput& input,
                            const PackedMatrix& packed) {
  const std::vector<float> decoded = Decode(packed);
  const std::vector<int32_t> cluster = linear.layout.ClusterOfMember();
  const int64_t n = linear.layout.columns;
  const std::vector<RowBlock> plain = Blocks(linear.layout, linear.layout.rows, false);
  const bool by_columns = linear.layout.partition == Partition::kColumns;
  const FeedbackInput feedback{.w = linear.w.data(),
                               .rows = linear.layout.rows,
                               .columns = n,
                               .inputs = input.inputs,
                               .blocks = input.blocks.empty() ? plain : input.blocks,
                               .tile_rows = by_columns ? linear.layout.cluster_size : 64};
  int wrong = 0;
  ThreadPool pool(1);
  RoundWithFeedback(feedback, pool, [&](const ColumnTile& tile, float* target, float* out) {
    RoundRows(tile, target, out, [&](int64_t r, float t) {
      const int64_t group = GroupOf(linear.layout, cluster, tile.row[r], tile.column);
      float nearest = 0;
      if (packed.depth[group] > 0) {
        nearest = INFINITY;
        for (const float level : packed.table[packed.depth[group]]) {
          const float value = packed.scale[group] * level;
          if (std::abs(value - t) < std::abs(nearest - t)) nearest = value;
        }
      }
      const float value = decoded[tile.row[r] * n + tile.column];
      wrong += std::abs(value - t) > std::abs(nearest - t) + 1e-5f;
      return value;
    });
  });
  EXPECT_EQ(wrong, 0);
}

TEST(Lloyd, DecodedValuesAreNearestToTheTargetsOfFeedback) {
  constexpr int64_t kRows = 150, kN = 100;
  const CurvatureFactor factor = *FactorCurvature(CorrelatedMoments(kN, 300, 3), kN, 0.01);
  for (const CurvatureFactor* feedback : {static_cast<const CurvatureFactor*>(nullptr), &factor}) {
    for (const Partition partition : kPartitions) {
      const Linear linear = RandomLinear(kRows, kN, partition, 32, 3);
      for (const int64_t block : {0, 64, 150}) {
        CodecInput input = Input(Codec::kLloyd, linear, feedback);
        const std::vector<RowBlock> blocks =
            block > 0 ? Blocks(linear.layout, block, true) : std::vector<RowBlock>();
        input.blocks = blocks;
        const PackedMatrix packed = Code(Codec::kLloyd, input);
        ExpectSound(packed, linear, Codec::kLloyd);
        ExpectNearestToTargets(linear, input, packed);
      }
    }
  }
}

TEST(Lloyd, FeedbackLowersTheDistortion) {
  constexpr int64_t kRows = 128, kN = 96;
  const std::vector<float> h = CorrelatedMoments(kN, 300, 4);
  const CurvatureFactor factor = *FactorCurvature(h, kN, 0.01);
  for (const Partition partition : kPartitions) {
    Linear linear = RandomLinear(kRows, kN, partition, 32, 4);
    std::fill(linear.depth.begin(), linear.depth.end(), 3);
    const auto distortion = [&](const CurvatureFactor* feedback) {
      const auto decoded = Decode(Code(Codec::kLloyd, Input(Codec::kLloyd, linear, feedback)));
      double sum = 0;
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t i = 0; i < kN; ++i) {
          for (int64_t j = 0; j < kN; ++j) {
            sum += (static_cast<double>(decoded[r * kN + i]) - linear.w[r * kN + i]) *
                   h[i * kN + j] *
                   (static_cast<double>(decoded[r * kN + j]) - linear.w[r * kN + j]);
          }
        }
      }
      return sum;
    };
    EXPECT_LT(distortion(&factor), 0.6 * distortion(nullptr));
  }
}

// Normal weights cost what the tables promise, whatever their size.
TEST(Codecs, ErrorIsThatOfTheTablesAtAnySizeOfWeights) {
  for (const Codec codec : kCodecs) {
    for (const Partition partition : kPartitions) {
      for (int b = 1; b <= kMaxDepth; ++b) {
        for (const float deviation : {1.0f, 0.02f, 1e-30f, 1e-18f, 1e18f, 1e30f}) {
          const bool by_columns = partition == Partition::kColumns;
          Linear linear = RandomLinear(by_columns ? 1024 : 8, by_columns ? 8 : 1024, partition,
                                       1024, 5, deviation);
          std::fill(linear.depth.begin(), linear.depth.end(), b);
          const PackedMatrix packed = Code(codec, Input(codec, linear));
          const double error = SquaredError(Decode(packed), linear.w) / linear.w.size() /
                               (static_cast<double>(deviation) * deviation);
          EXPECT_LT(error, Tables(codec).distortion[b] * 1.15) << b << " at " << deviation;
          EXPECT_GT(error, Tables(Codec::kLloyd).distortion[b] * 0.8) << b << " at " << deviation;
        }
      }
    }
  }
}

TEST(Codecs, DepthZeroPrunes) {
  for (const Partition partition : kPartitions) {
    Linear linear = RandomLinear(20, 30, partition, 7, 6);
    for (float& w : linear.w) w += 2;  // far enough off zero for the mean to matter
    std::fill(linear.depth.begin(), linear.depth.end(), 0);
    const PackedMatrix lloyd = Code(Codec::kLloyd, Input(Codec::kLloyd, linear));
    EXPECT_TRUE(lloyd.codes.empty());
    for (const float w : Decode(lloyd)) EXPECT_EQ(w, 0);

    const PackedMatrix companded = Code(Codec::kCompanded, Input(Codec::kCompanded, linear));
    ExpectSound(companded, linear, Codec::kCompanded);
    EXPECT_TRUE(companded.codes.empty());
    const GroupMoments moments = ComputeGroupMoments(linear.layout, linear.w.data());
    for (size_t g = 0; g < moments.mean.size(); ++g) {
      EXPECT_NEAR(companded.mean[g], moments.mean[g], companded.scale[g] / 60);
    }
  }
}

TEST(Codecs, ZerosAreExact) {
  const CurvatureFactor factor = *FactorCurvature(CorrelatedMoments(20, 60, 7), 20, 0.01);
  for (const Codec codec : kCodecs) {
    for (const Partition partition : kPartitions) {
      for (const CurvatureFactor* feedback :
           {static_cast<const CurvatureFactor*>(nullptr), &factor}) {
        Linear linear = RandomLinear(30, 20, partition, 8, 7);
        std::fill(linear.w.begin(), linear.w.end(), 0.0f);
        const PackedMatrix packed = Code(codec, Input(codec, linear, feedback));
        ExpectSound(packed, linear, codec);
        EXPECT_TRUE(packed.codes.empty());  // groups of zeros give their bits back
        for (const float w : Decode(packed)) EXPECT_EQ(w, 0);
      }
    }
  }
}

TEST(Codecs, RowsOfZerosDoNoHarm) {
  for (const Codec codec : kCodecs) {
    for (const Partition partition : kPartitions) {
      Linear linear = RandomLinear(40, 24, partition, 8, 8);
      for (const int64_t row : {0, 5, 6, 39}) std::fill_n(&linear.w[row * 24], 24, 0.0f);
      linear.layout = MakeGroupLayout(40, 24, partition, 8,
                                      MemberVariances(40, 24, partition, linear.w.data()));
      std::fill(linear.depth.begin(), linear.depth.end(), 6);
      const PackedMatrix packed = Code(codec, Input(codec, linear));
      ExpectSound(packed, linear, codec);
      EXPECT_LT(SquaredError(Decode(packed), linear.w), 0.01 * linear.w.size());
    }
  }
}

// A mean reaches only four scales: where it is large for the deviation the scale must follow it.
TEST(Companded, GroupsFarOffZeroKeepTheirMean) {
  for (const float deviation : {0.3f, 0.01f, 1e-4f, 0.0f}) {
    for (const int b : {0, 1, 4, 8}) {
      Linear linear = RandomLinear(64, 6, Partition::kColumns, 32, 9, deviation);
      for (float& w : linear.w) w -= 5;
      std::fill(linear.depth.begin(), linear.depth.end(), b);
      const PackedMatrix packed = Code(Codec::kCompanded, Input(Codec::kCompanded, linear));
      ExpectSound(packed, linear, Codec::kCompanded);
      const std::vector<float> decoded = Decode(packed);
      for (size_t i = 0; i < decoded.size(); ++i) {
        EXPECT_NEAR(decoded[i], linear.w[i], 0.2 + 4 * deviation) << deviation << " at " << b;
      }
      if (b == 8 && deviation > 0) {
        EXPECT_LT(std::sqrt(SquaredError(decoded, linear.w) / decoded.size()), 0.02);
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
