// The counter-based generator: fixed numbers, and the statistics that its users rely on.
#include "base/random.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <set>

namespace cvxq {
namespace {

// SplitMix64 adds its constant, then mixes; these are its first outputs for the seed 0.
static_assert(Mix64(0) == 0xe220a8397b1dcdafu);
static_assert(Mix64(0x9e3779b97f4a7c15u) == 0x6e789e6aa1b965f4u);
static_assert(Mix64(2 * 0x9e3779b97f4a7c15u) == 0x06c45d188009454fu);

TEST(Random, UniformFillsTheUnitIntervalEvenly) {
  constexpr int kDraws = 100000, kBins = 20;
  int bins[kBins] = {};
  double sum = 0, sum_of_next_products = 0;
  for (int i = 0; i < kDraws; ++i) {
    const float u = RandomUniform(7, i);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    ASSERT_EQ(u * 0x1p24f, std::floor(u * 0x1p24f));
    ++bins[static_cast<int>(u * kBins)];
    sum += u - 0.5;
    sum_of_next_products += (u - 0.5) * (RandomUniform(7, i + 1) - 0.5);
  }
  // Five deviations of a fair generator; the draws are fixed, so this cannot fail by chance.
  EXPECT_NEAR(sum / kDraws, 0.0, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(sum_of_next_products / kDraws, 0.0, 5.0 / 12 / std::sqrt(1.0 * kDraws));
  for (const int count : bins) EXPECT_NEAR(count, kDraws / kBins, 5 * std::sqrt(kDraws / kBins));
}

TEST(Random, NearbyKeysAndCountersGiveUnrelatedBits) {
  double by_key = 0, by_counter = 0;
  constexpr int kPairs = 10000;
  for (uint64_t i = 0; i < kPairs; ++i) {
    by_key += std::popcount(RandomBits(i, 5) ^ RandomBits(i + 1, 5));
    by_counter += std::popcount(RandomBits(5, i) ^ RandomBits(5, i + 1));
  }
  // Half of 64 bits differ, with deviation 4 a pair.
  EXPECT_NEAR(by_key / kPairs, 32, 5 * 4 / std::sqrt(kPairs));
  EXPECT_NEAR(by_counter / kPairs, 32, 5 * 4 / std::sqrt(kPairs));
}

TEST(Random, EqualKeyAndCounterAreNothingSpecial) {
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 1000; ++i) seen.insert(RandomBits(i, i));
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(Random, DerivedKeysDependOnEveryPartAndTheirOrder) {
  EXPECT_EQ(DeriveKey(3), 3u);
  EXPECT_EQ(DeriveKey(3, 1, 2), DeriveKey(DeriveKey(3, 1), 2));
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t a = 0; a < 10; ++a) {
      for (uint64_t b = 0; b < 10; ++b) keys.insert(DeriveKey(seed, a, b));
    }
  }
  EXPECT_EQ(keys.size(), 1000u);
}

}  // namespace
}  // namespace cvxq
