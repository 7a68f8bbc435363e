#include "formats/scale_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "formats/ggml_fit.h"
#include "formats/ggml_types.h"
#include "kernels/cpu/cpu_features.h"
#include "tests/formats/scale_search_reference.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

struct Kernels {
  const char* name;
  const ScaleSearchKernels* kernels;
};

// Those that this CPU runs.
std::vector<Kernels> AllKernels() {
  std::vector<Kernels> all = {{"baseline", &kScaleSearchBaseline}};
  if (HasX86V3()) all.push_back({"avx2", &kScaleSearchAvx2});
  if (HasX86V4()) all.push_back({"avx512", &kScaleSearchAvx512});
  return all;
}

std::vector<const GgmlType*> SearchedTypes() {
  std::vector<const GgmlType*> types;
  for (const GgmlType* type : GgmlTypes()) {
    if (!type->dense() && SearchOf(type->id()) != nullptr) types.push_back(type);
  }
  return types;
}

// Sixteen sub-blocks of many kinds: normal, shifted, of one sign, of one value, zeros, with large
// ones, tiny, huge; and weights, some of them zero.
void DrawColumns(Draws& draws, int64_t sub, std::vector<float>& x, std::vector<float>& weight) {
  x.clear();
  weight.clear();
  for (int lane = 0; lane < kSearchLanes; ++lane) {
    const auto kind = draws.Below(10);
    for (int64_t i = 0; i < sub; ++i) {
      float value = 0.1f * draws.Normal();
      if (kind == 1) value += 0.5f;
      if (kind == 2) value = -std::abs(value);
      if (kind == 3) value = -0.25f;
      if (kind == 4) value = 0;
      if (kind == 5 && i % 13 == 0) value *= 20;
      if (kind == 6) value *= 1e-6f;
      if (kind == 7) value = i % 2 == 0 ? value : 0;
      x.push_back(value);
      weight.push_back(kind == 8 ? 0.0f : std::exp(draws.Normal()));
    }
  }
}

void ExpectEqual(const BlockScales& a, const BlockScales& b, int subs, const std::string& where) {
  ASSERT_EQ(a.d, b.d) << where;
  ASSERT_EQ(a.m, b.m) << where;
  for (int j = 0; j < subs; ++j) {
    ASSERT_EQ(a.s[j], b.s[j]) << where << " sub-block " << j;
    ASSERT_EQ(a.o[j], b.o[j]) << where << " sub-block " << j;
  }
}

TEST(ScaleSearchTest, EveryKernelFindsWhatThePlainSearchFinds) {
  std::vector<float> x, weight;
  for (const GgmlType* type : SearchedTypes()) {
    const ScaleSearch& search = *SearchOf(type->id());
    const int64_t block = search.subs * search.sub;
    Draws draws(static_cast<uint64_t>(type->id()));
    for (int draw = 0; draw < 12; ++draw) {
      DrawColumns(draws, search.sub, x, weight);
      const float size = draw == 10 ? 1e20f : draw == 11 ? 1e-33f : 1;
      for (float& value : x) value *= size;
      const int blocks = kSearchLanes / search.subs;
      for (const Kernels& k : AllKernels()) {
        BlockScales scales[kSearchLanes];
        k.kernels->search(search, x.data(), weight.data(), blocks, scales);
        for (int b = 0; b < blocks; ++b) {
          const BlockScales expected =
              SearchScalesReference(search, &x[b * block], &weight[b * block]);
          ExpectEqual(scales[b], expected, search.subs,
                      type->name() + " " + k.name + " draw " + std::to_string(draw) + " block " +
                          std::to_string(b));
        }
      }
    }
  }
}

TEST(ScaleSearchTest, ABlockDoesNotDependOnThoseBesideIt) {
  std::vector<float> x, weight;
  for (const GgmlType* type : SearchedTypes()) {
    const ScaleSearch& search = *SearchOf(type->id());
    const int64_t block = search.subs * search.sub;
    Draws draws(5);
    DrawColumns(draws, search.sub, x, weight);
    const int blocks = kSearchLanes / search.subs;
    BlockScales together[kSearchLanes], alone[kSearchLanes];
    ScaleSearchHere().search(search, x.data(), weight.data(), blocks, together);
    for (int b = 0; b < blocks; ++b) {
      ScaleSearchHere().search(search, &x[b * block], &weight[b * block], 1, alone);
      ExpectEqual(together[b], alone[0], search.subs, type->name());
    }
  }
}

TEST(ScaleSearchTest, StepsOfFp4AreTheBestOfThoseTried) {
  Draws draws(9);
  std::vector<float> x, weight;
  constexpr int kTrials = 5;
  for (int64_t sub : {16, 32}) {
    DrawColumns(draws, sub, x, weight);
    std::vector<float> steps(kTrials * kSearchLanes);
    for (float& step : steps) step = draws.Uniform(0.005f, 0.08f);
    for (const Kernels& k : AllKernels()) {
      int best[kSearchLanes];
      k.kernels->pick_step(sub, x.data(), weight.data(), kSearchLanes, steps.data(), kTrials, best);
      for (int lane = 0; lane < kSearchLanes; ++lane) {
        std::vector<double> error(kTrials);
        for (int t = 0; t < kTrials; ++t) {
          for (int64_t i = lane * sub; i < (lane + 1) * sub; ++i) {
            double nearest = INFINITY;
            for (const double level : {0, 1, 2, 3, 4, 6, 8, 12}) {
              nearest = std::min(nearest,
                                 std::abs(level * steps[t * kSearchLanes + lane] - std::abs(x[i])));
            }
            const double w = weight[lane * sub] == 0 ? 1 : weight[i];
            error[t] += w * nearest * nearest;
          }
        }
        const double least = *std::min_element(error.begin(), error.end());
        EXPECT_LE(error[best[lane]], least * 1.0001 + 1e-9) << k.name << " lane " << lane;
      }
    }
  }
}

TEST(ScaleSearchTest, CodesAreThoseOfThePlainRule) {
  Draws draws(11);
  const float uniform[] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<float> edges;
  for (int k = 0; k < 15; ++k) edges.push_back((kIq4Levels[k] + kIq4Levels[k + 1]) / 2);
  for (const int64_t sub : {16, 32, 40, 7}) {
    constexpr int64_t kSubs = 5;
    const std::vector<float> x = draws.Normals(kSubs * sub);
    std::vector<float> step = draws.Normals(kSubs, 0.1f), offset = draws.Normals(kSubs, 0.1f);
    step[2] = 0;
    for (const bool table : {false, true}) {
      const float* levels = table ? kIq4Levels : uniform;
      const float* of = table ? edges.data() : nullptr;
      for (const bool has_offset : {false, true}) {
        for (const Kernels& k : AllKernels()) {
          std::vector<uint8_t> codes(x.size(), 0xcc);
          k.kernels->nearest(levels, of, 16, sub, x.data(), step.data(),
                             has_offset ? offset.data() : nullptr, kSubs, codes.data());
          for (size_t i = 0; i < x.size(); ++i) {
            const size_t j = i / static_cast<size_t>(sub);
            ASSERT_EQ(codes[i], NearestCodeReference(levels, of, 16, x[i], step[j],
                                                     has_offset ? offset[j] : 0))
                << k.name << " sub " << sub << " element " << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
