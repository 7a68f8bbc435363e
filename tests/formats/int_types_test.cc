#include "formats/int_types.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "formats/grid_coder.h"
#include "formats/int_fit.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

struct Case {
  int bits;
  bool symmetric;
  int64_t block;
  DType scale;
};

// Weights of a block with a long tail and off their centre, and how much each counts.
struct Block {
  std::vector<float> x, weight;
  Block(int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; ++i) {
      float sum = -6;
      for (int k = 0; k < 12; ++k) sum += RandomUniform(DeriveKey(seed, i), k);
      x.push_back(0.02f * sum * (1 + RandomUniform(seed, 1000 + i)) + 0.003f);
      weight.push_back(0.05f + RandomUniform(seed, 5000 + i));
    }
  }
};

// The error of a scale and a zero point, by the definition.
double ErrorOf(const Block& block, int bits, bool symmetric, double scale, int zero) {
  const int low = symmetric ? -(1 << (bits - 1)) : 0, high = low + (1 << bits) - 1;
  double error = 0;
  for (size_t i = 0; i < block.x.size(); ++i) {
    const double code = std::clamp<double>(std::nearbyint(block.x[i] / scale) + zero, low, high);
    const double difference = block.x[i] - (code - zero) * scale;
    error += block.weight[i] * difference * difference;
  }
  return error;
}

double FitError(const Block& block, const Case& c) {
  IntSearch search(c.bits, c.scale, c.block);
  const IntFit fit = c.symmetric ? search.Symmetric(block.x.data(), block.weight.data())
                                 : search.Asymmetric(block.x.data(), block.weight.data());
  return ErrorOf(block, c.bits, c.symmetric, ScaleValue(fit.scale, c.scale), fit.zero);
}

// The best of very many scales (and zero points), each as it would be stored.
double ReferenceError(const Block& block, const Case& c) {
  const auto [least, most] = std::minmax_element(block.x.begin(), block.x.end());
  const double reach = std::max(std::fabs(*least), std::fabs(*most));
  double best = std::numeric_limits<double>::infinity();
  const auto consider = [&](double scale, int zero) {
    const double stored = ScaleValue(NearestScale(static_cast<float>(scale), c.scale), c.scale);
    best = std::min(best, ErrorOf(block, c.bits, c.symmetric, stored, zero));
  };
  for (int step = 1; step <= 200; ++step) {
    const double share = step / 190.0;
    if (c.symmetric) {
      consider(share * reach / ((1 << (c.bits - 1)) - 1), 0);
      consider(-share * reach / ((1 << (c.bits - 1)) - 1), 0);
    } else {
      const double scale = share * (*most - *least) / ((1 << c.bits) - 1);
      const int middle = static_cast<int>(std::nearbyint(-*least / scale));
      const int top = (1 << c.bits) - 1;
      for (int zero = std::max(0, middle - top); zero <= std::min(top, middle); ++zero) {
        if (c.bits < 8 || std::abs(middle - zero) < 8) consider(scale, zero);
      }
    }
  }
  return best;
}

// What other tools take: the range of the block.
double RangeError(const Block& block, const Case& c) {
  const auto [least, most] = std::minmax_element(block.x.begin(), block.x.end());
  const float low = std::min(0.0f, *least), high = std::max(0.0f, *most);
  float scale = std::max(-low, high) / ((1 << (c.bits - 1)) - 0.5f);
  int zero = 0;
  if (!c.symmetric) {
    scale = (high - low) / static_cast<float>((1 << c.bits) - 1);
    zero = static_cast<int>(std::nearbyint(-low / scale));
  }
  return ErrorOf(block, c.bits, c.symmetric, ScaleValue(NearestScale(scale, c.scale), c.scale),
                 zero);
}

TEST(IntTypes, SearchComesCloseToTryingEverything) {
  for (const int bits : {2, 3, 4, 5, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t n : {32, 100}) {
        const Case c{bits, symmetric, n, n == 32 ? DType::kBF16 : DType::kF16};
        double found = 0, best = 0, range = 0;
        for (uint64_t seed = 1; seed <= 12; ++seed) {
          const Block block(n, seed);
          found += FitError(block, c);
          best += ReferenceError(block, c);
          range += RangeError(block, c);
        }
        EXPECT_LT(found, (bits == 8 ? 1.25 : 1.06) * best) << bits << symmetric << n;
        EXPECT_LT(found, (bits == 8 ? 1.0 : 0.96) * range) << bits << symmetric << n;
      }
    }
  }
}

TEST(IntTypes, SearchIsNeverWorseThanTheRange) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Block block(32, seed);
    if (seed % 3 == 0) block.x[seed % 32] *= 40;  // an outlier
    for (const bool symmetric : {true, false}) {
      const Case c{2 + static_cast<int>(seed % 7), symmetric, 32, DType::kBF16};
      EXPECT_LE(FitError(block, c), RangeError(block, c) * (1 + 1e-5)) << seed << symmetric;
    }
  }
}

TEST(IntTypes, ScalesFollowTheWeightsToAnySize) {
  const Block block(64, 3);
  for (const bool symmetric : {true, false}) {
    IntSearch search(4, DType::kBF16, 64);
    const auto fit = [&](const std::vector<float>& x) {
      return symmetric ? search.Symmetric(x.data(), block.weight.data())
                       : search.Asymmetric(x.data(), block.weight.data());
    };
    const IntFit base = fit(block.x);
    for (const float power : {0x1p-80f, 0x1p40f, 0x1p100f}) {
      std::vector<float> x = block.x;
      for (float& value : x) value *= power;
      const IntFit scaled = fit(x);
      EXPECT_EQ(ScaleValue(scaled.scale, DType::kBF16),
                power * ScaleValue(base.scale, DType::kBF16));
      EXPECT_EQ(scaled.zero, base.zero);
    }
  }
}

TEST(IntTypes, HalfScalesStayFiniteAndAboveZero) {
  const Block block(64, 4);
  IntSearch search(2, DType::kF16, 64);
  for (const float power : {0x1p-100f, 0x1p-30f, 0x1p60f}) {
    std::vector<float> x = block.x;
    for (float& value : x) value *= power;
    for (const uint16_t bits : {search.Symmetric(x.data(), block.weight.data()).scale,
                                search.Asymmetric(x.data(), block.weight.data()).scale}) {
      EXPECT_TRUE(std::isfinite(F16ToFloat(bits)));
      EXPECT_NE(F16ToFloat(bits), 0);
    }
  }
}

TEST(IntTypes, BlocksWithoutContent) {
  const std::vector<float> zero(32, 0.0f), ones(32, 1.0f);
  Block block(32, 5);
  for (const DType scale : {DType::kF16, DType::kBF16}) {
    for (const bool symmetric : {true, false}) {
      IntSearch search(3, scale, 32);
      const auto fit = [&](const std::vector<float>& x, const std::vector<float>& weight) {
        return symmetric ? search.Symmetric(x.data(), weight.data())
                         : search.Asymmetric(x.data(), weight.data());
      };
      EXPECT_NE(ScaleValue(fit(zero, ones).scale, scale), 0);
      // Weights of 0 throughout count the same.
      const IntFit none = fit(block.x, zero), all = fit(block.x, ones);
      EXPECT_EQ(none.scale, all.scale);
      EXPECT_EQ(none.zero, all.zero);
    }
  }
}

TEST(IntTypes, OneSidedBlocksHaveZeroAtTheEnd) {
  Block block(64, 6);
  for (float& value : block.x) value = std::fabs(value);
  IntSearch search(4, DType::kBF16, 64);
  EXPECT_EQ(search.Asymmetric(block.x.data(), block.weight.data()).zero, 0);
  for (float& value : block.x) value = -value;
  EXPECT_EQ(search.Asymmetric(block.x.data(), block.weight.data()).zero, 15);
}

int64_t NoBytes(const IntSpec&, int64_t, int64_t) { return 0; }

TEST(IntTypes, FieldsStandForTheGrids) {
  const Block block(96, 7);
  for (const bool symmetric : {true, false}) {
    const IntType type("t", {.bits = 3, .symmetric = symmetric, .group = 32}, NoBytes);
    ASSERT_EQ(type.levels().size(), 8);
    EXPECT_EQ(type.levels()[0], symmetric ? -4 : 0);
    std::vector<uint8_t> fields(3 * type.field_bytes());
    float step[3], offset[3], again[3], again_offset[3];
    type.Fit(block.x.data(), block.weight.data(), 3, 1, fields.data(), step, offset);
    type.Grids(fields.data(), 3, 1, again, again_offset);
    for (int b = 0; b < 3; ++b) {
      EXPECT_EQ(step[b], again[b]);
      const uint8_t* field = &fields[b * type.field_bytes()];
      EXPECT_EQ(step[b], BF16ToFloat(ScaleField(field)));
      if (symmetric) continue;
      EXPECT_EQ(offset[b], again_offset[b]);
      EXPECT_EQ(offset[b], -step[b] * ZeroField(field));
    }
  }
}

// Coded without feedback, each weight gets the value nearest to it, on scales of either sign.
TEST(IntTypes, CodesAreNearest) {
  constexpr int64_t kRows = 40, kColumns = 64;
  const Block weights(kRows * kColumns, 8);
  ThreadPool pool(2);
  for (const bool symmetric : {true, false}) {
    const IntType type("t", {.bits = 3, .symmetric = symmetric, .group = 32}, NoBytes);
    const GridMatrix m =
        CodeNearest({.w = weights.x.data(), .rows = kRows, .columns = kColumns}, type, pool);
    const std::vector<float> decoded = Decode(m);
    int64_t negative = 0;
    for (int64_t i = 0; i < kRows * kColumns; ++i) {
      const float step = m.step[i / 32], offset = symmetric ? 0 : m.offset[i / 32];
      float least = std::numeric_limits<float>::infinity();
      for (const float level : type.levels()) {
        least = std::min(least, std::fabs(weights.x[i] - (step * level + offset)));
      }
      EXPECT_NEAR(std::fabs(weights.x[i] - decoded[i]), least, 1e-7f);
      negative += step < 0 ? 1 : 0;
    }
    EXPECT_EQ(negative > 0, symmetric);
  }
}

// Error feedback on scales of groups and of whole rows, of either sign, with and without offsets.
TEST(IntTypes, FeedbackLessensTheDistortion) {
  constexpr int64_t kRows = 24, kColumns = 96;
  Draws draws(9);
  const std::vector<float> w = draws.Normals(kRows * kColumns, 0.05f);
  const std::vector<float> h = CorrelatedMoments(kColumns, 2 * kColumns, 1);
  const CurvatureFactor inputs = *FactorCurvature(h, kColumns, 0.01);
  const auto distortion = [&](const GridMatrix& m) {
    const std::vector<float> decoded = Decode(m);
    double sum = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t i = 0; i < kColumns; ++i) {
        for (int64_t j = 0; j < kColumns; ++j) {
          const double a = decoded[r * kColumns + i] - w[r * kColumns + i];
          sum += a * h[i * kColumns + j] * (decoded[r * kColumns + j] - w[r * kColumns + j]);
        }
      }
    }
    return sum;
  };
  ThreadPool pool(2);
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {int64_t{32}, kColumns}) {
      const IntType type("t", {.bits = 3, .symmetric = symmetric, .group = group}, NoBytes);
      const GridInput plain{.w = w.data(), .rows = kRows, .columns = kColumns};
      GridInput with = plain;
      with.inputs = &inputs;
      const double nearest = distortion(CodeNearest(plain, type, pool));
      EXPECT_LT(distortion(CodeOnGrids(with, type, pool)), 0.8 * nearest) << symmetric << group;
    }
  }
}

TEST(IntTypes, NamesOfMenus) {
  EXPECT_EQ(ParseIntName("int4")->bits, 4);
  EXPECT_TRUE(ParseIntName("int4")->symmetric);
  EXPECT_FALSE(ParseIntName("int4")->group.has_value());
  EXPECT_FALSE(ParseIntName("int3a")->symmetric);
  EXPECT_EQ(ParseIntName("int8_g32")->group, 32);
  EXPECT_EQ(ParseIntName("int8a_g128")->group, 128);
  EXPECT_EQ(ParseIntName("int2_channel")->group, 0);
  for (const char* name : {"int", "int1", "int9", "int44", "int4b", "int4_g33", "int4_g", "in4",
                           "INT4", "int4_", "int4a_channel2"}) {
    EXPECT_FALSE(ParseIntName(name).has_value()) << name;
  }
}

TEST(IntTypes, ColumnsThatDoNotDivideGetWholeRows) {
  const IntName name = *ParseIntName("int4");
  const NamedIntSpec whole = SpecFor(name, 64, 352, DType::kBF16);
  EXPECT_EQ(whole.name, "int4_channel");
  EXPECT_TRUE(whole.spec.channel);
  EXPECT_EQ(whole.spec.group, 352);
  const NamedIntSpec groups = SpecFor(name, 32, 352, DType::kBF16);
  EXPECT_EQ(groups.name, "int4");
  EXPECT_EQ(groups.spec.group, 32);
}

}  // namespace
}  // namespace cvxq
