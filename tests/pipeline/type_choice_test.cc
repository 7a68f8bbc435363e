#include "pipeline/type_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "base/random.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

// The best of all combinations.
double Exhaustive(const std::vector<TypeOptions>& items, int64_t budget) {
  double least = std::numeric_limits<double>::infinity();
  const std::function<void(size_t, int64_t, double)> go = [&](size_t item, int64_t bytes,
                                                              double distortion) {
    if (bytes > budget) return;
    if (item == items.size()) {
      least = std::min(least, distortion);
      return;
    }
    for (const TypeOption& option : items[item]) {
      go(item + 1, bytes + option.bytes, distortion + option.distortion);
    }
  };
  go(0, 0, 0);
  return least;
}

// Types of 3 to 9 bits for matrices of different sizes and sensitivities.
std::vector<TypeOptions> RandomItems(uint64_t seed, size_t count) {
  std::vector<TypeOptions> items(count);
  uint64_t next = 0;
  const auto random = [&] { return static_cast<double>(RandomBits(seed, next++) >> 11) * 0x1p-53; };
  for (TypeOptions& options : items) {
    const double weights = 1000 + 9000 * random(), sensitivity = std::exp2(6 * random());
    for (int bits = 3; bits <= 9; bits += 2) {
      options.push_back({static_cast<int64_t>(weights * bits / 8),
                         sensitivity * std::exp2(-2 * bits) * (0.7 + 0.6 * random())});
    }
  }
  return items;
}

TEST(TypeChoiceTest, TheBestOfAllCombinations) {
  double worst = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<TypeOptions> items = RandomItems(seed, 7);
    int64_t least = 0, most = 0;
    for (const TypeOptions& options : items) {
      least += options.front().bytes;
      most += options.back().bytes;
    }
    for (const double share : {0.0, 0.1, 0.35, 0.5, 0.8, 1.0}) {
      const auto budget = static_cast<int64_t>(least + share * (most - least));
      const StatusOr<TypeChoice> choice = ChooseTypes(items, budget);
      ASSERT_TRUE(choice.ok()) << choice.status();
      int64_t bytes = 0;
      double distortion = 0;
      for (size_t i = 0; i < items.size(); ++i) {
        bytes += items[i][choice->option[i]].bytes;
        distortion += items[i][choice->option[i]].distortion;
      }
      EXPECT_EQ(choice->bytes, bytes);
      EXPECT_NEAR(choice->distortion, distortion, 1e-12 * distortion);
      EXPECT_LE(bytes, budget);
      worst = std::max(worst, distortion / Exhaustive(items, budget));
    }
  }
  EXPECT_LT(worst, 1 + 1e-9);
}

TEST(TypeChoiceTest, FillsTheBudget) {
  const std::vector<TypeOptions> items = RandomItems(1, 60);
  int64_t bytes = 0;
  for (const TypeOptions& options : items) bytes += options[1].bytes;
  const StatusOr<TypeChoice> choice = ChooseTypes(items, bytes);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_LE(choice->bytes, bytes);
  EXPECT_GE(choice->bytes, bytes - bytes / 1000);
}

// At any size between the smallest and the largest: never above, and nothing more fits.
TEST(TypeChoiceTest, WhatIsLeftIsLessThanAnyStep) {
  for (const size_t count : {1, 5, 40}) {
    const std::vector<TypeOptions> items = RandomItems(count, count);
    int64_t least = 0, most = 0;
    for (const TypeOptions& options : items) {
      least += options.front().bytes;
      most += options.back().bytes;
    }
    for (int i = 0; i <= 10; ++i) {
      const int64_t budget = least + (most - least) * i / 10;
      const StatusOr<TypeChoice> choice = ChooseTypes(items, budget);
      ASSERT_TRUE(choice.ok()) << choice.status();
      EXPECT_LE(choice->bytes, budget);
      // The step is searched for anew, not as the code does.
      int64_t next = std::numeric_limits<int64_t>::max(), last = 0;
      for (size_t item = 0; item < items.size(); ++item) {
        const TypeOption& now = items[item][choice->option[item]];
        for (const TypeOption& other : items[item]) {
          if (other.bytes <= now.bytes || other.distortion >= now.distortion) continue;
          next = std::min(next, other.bytes - now.bytes);
          last = std::max(last, other.bytes - now.bytes);
        }
      }
      if (last > 0) {
        EXPECT_LT(budget - choice->bytes, next) << count << " items, " << i;
      }
      const TypeSteps steps = StepsFrom(items, *choice);
      EXPECT_EQ(steps.least, last > 0 ? next : 0);
      EXPECT_EQ(steps.most, last);
    }
  }
}

// Bytes of large models come in more units than there is room for.
TEST(TypeChoiceTest, LargeModels) {
  std::vector<TypeOptions> items = RandomItems(2, 300);
  int64_t bytes = 0;
  for (TypeOptions& options : items) {
    for (TypeOption& option : options) option.bytes = option.bytes * 100003 + 1;
    bytes += options[2].bytes;
  }
  const StatusOr<TypeChoice> choice = ChooseTypes(items, bytes);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_LE(choice->bytes, bytes);
  EXPECT_GE(choice->bytes, bytes - bytes / 10000);
  double uniform = 0;
  for (const TypeOptions& options : items) uniform += options[2].distortion;
  EXPECT_LT(choice->distortion, 0.8 * uniform);
}

TEST(TypeChoiceTest, MoreBytesThanNeededTakeTheLeastDistortion) {
  // The larger option is the worse one: it is never taken.
  const std::vector<TypeOptions> items = {{{10, 1}, {20, 2}}, {{10, 1}, {20, 0.5}}};
  const StatusOr<TypeChoice> choice = ChooseTypes(items, 1000);
  ASSERT_TRUE(choice.ok());
  EXPECT_THAT(choice->option, testing::ElementsAre(0, 1));
}

TEST(TypeChoiceTest, TooSmallABudgetSaysWhatIsNeeded) {
  const StatusOr<TypeChoice> choice = ChooseTypes({{{10, 1}}, {{20, 1}, {30, 0}}}, 29);
  EXPECT_TRUE(absl::IsInvalidArgument(choice.status()));
  EXPECT_THAT(choice.status().message(), HasSubstr("30 bytes"));
}

TEST(TypeChoiceTest, NoItems) { EXPECT_EQ(ChooseTypes({}, 0)->bytes, 0); }

}  // namespace
}  // namespace cvxq
