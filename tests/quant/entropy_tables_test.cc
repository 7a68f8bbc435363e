#include "quant/entropy_tables.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/quant/quant_testing.h"
#include "tests/quant/scaled_testing.h"

namespace cvxq {
namespace {

// Every slot belongs to one symbol, entries and symbols and costs tell the same.
void ExpectSound(const EntropyTables& tables) {
  for (int t = 0; t < kSymbolClasses * kTrellisGrids; ++t) {
    const int largest = tables.largest(t);
    std::vector<bool> taken(kFrequencySum);
    for (int k = -largest; k <= largest + 1; ++k) {
      const bool escape = k > largest;
      const int symbol = escape ? EntropyTables::kEscape : static_cast<uint8_t>(k);
      const uint32_t place = tables.symbols(t)[symbol];
      const int start = static_cast<int>(place >> 16), frequency = static_cast<int>(place & 0xffff);
      ASSERT_GE(frequency, 1);
      ASSERT_LE(start + frequency, kFrequencySum);
      const int grid = t % kTrellisGrids;
      const int code = escape ? -128 : 2 * k - grid * ((k > 0) - (k < 0));
      for (int i = 0; i < frequency; ++i) {
        ASSERT_FALSE(taken[start + i]);
        taken[start + i] = true;
        const uint32_t e = tables.entries()[t * kFrequencySum + start + i];
        ASSERT_EQ(e & 2047, static_cast<uint32_t>(i));
        ASSERT_EQ(static_cast<int8_t>(e >> 11), code);
        ASSERT_EQ(e >> 21, static_cast<uint32_t>(frequency));
        if (!escape) {
          ASSERT_EQ(e >> 20 & 1, static_cast<uint32_t>(k & 1));
        }
      }
      if (escape) continue;
      ASSERT_EQ(tables.Cost(t / kTrellisGrids, grid, k),
                static_cast<float>(11 - std::log2(frequency)));
    }
    for (const bool slot : taken) ASSERT_TRUE(slot);
  }
}

void ExpectSame(const EntropyTables& a, const EntropyTables& b) {
  const size_t entries = size_t{kSymbolClasses} * kTrellisGrids * kFrequencySum;
  EXPECT_TRUE(std::equal(a.entries(), a.entries() + entries, b.entries()));
}

TEST(EntropyTables, ComeBackFromBytes) {
  uint64_t key = 0;
  for (const float spread : {0.0f, 0.02f, 0.3f, 1.0f, 5.0f, 50.0f}) {
    for (const int64_t size : {1, 30, 400}) {
      const EntropyTables tables = TablesOf(RandomCodes(size, size, 0, spread, ++key));
      ExpectSound(tables);
      const StatusOr<EntropyTables> parsed = EntropyTables::Parse(tables.Serialize());
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      ExpectSame(tables, *parsed);
    }
  }
}

TEST(EntropyTables, NothingCountedIsSound) {
  const EntropyTables tables = EntropyTables::Train(SymbolCounts());
  ExpectSound(tables);
  EXPECT_LT(tables.Serialize().size(), 12u);
  EXPECT_GT(tables.Cost(3, 0, 1), 10);
  EXPECT_LT(tables.Cost(3, 0, 0), 0.01);
}

TEST(EntropyTables, CountsMergeInAnyOrder) {
  const ScaledCodes a = RandomCodes(30, 40, 0, 1, 1), b = RandomCodes(50, 20, 16, 3, 2);
  SymbolCounts together, parts, part;
  together.Add(a);
  together.Add(b);
  part.Add(b);
  parts.Add(part);
  parts.Add(a);
  EXPECT_EQ(EntropyTables::Train(together).Serialize(), EntropyTables::Train(parts).Serialize());
}

// Where the trellis starts anew, a matrix counts as several.
TEST(EntropyTables, CountsStartAnewWithTheTrellis) {
  const ScaledCodes half = RandomCodes(30, 40, 0, 1, 8);
  SymbolCounts twice, whole;
  twice.Add(half);
  twice.Add(half);
  ScaledCodes codes = half;
  codes.rows = 60;
  codes.trellis_rows = 30;
  codes.integers.insert(codes.integers.end(), half.integers.begin(), half.integers.end());
  codes.row_class.insert(codes.row_class.end(), half.row_class.begin(), half.row_class.end());
  whole.Add(codes);
  for (int c = 0; c < kSymbolClasses; ++c) {
    for (int g = 0; g < kTrellisGrids; ++g) {
      EXPECT_TRUE(std::ranges::equal(whole.bins(c, g), twice.bins(c, g))) << c << ' ' << g;
    }
  }
}

TEST(EntropyTables, EscapesCostTheirBytes) {
  const EntropyTables tables = TablesOf(RandomCodes(100, 100, 0, 0.5f, 3));
  int table = 0;
  while (tables.largest(table) == 0) table += kTrellisGrids;
  const int first = tables.largest(table) + 1, symbol_class = table / kTrellisGrids;
  const double escape = 11 - std::log2(tables.symbols(table)[EntropyTables::kEscape] & 0xffff);
  EXPECT_FLOAT_EQ(tables.Cost(symbol_class, 0, first), escape + 8);
  EXPECT_FLOAT_EQ(tables.Cost(symbol_class, 0, -first - 63), escape + 8);
  EXPECT_FLOAT_EQ(tables.Cost(symbol_class, 0, first + 64), escape + 16);
  EXPECT_FLOAT_EQ(tables.Cost(symbol_class, 0, -first - 8191), escape + 16);
  EXPECT_FLOAT_EQ(tables.Cost(symbol_class, 0, first + 8192), escape + 24);
  EXPECT_FLOAT_EQ(tables.Cost(symbol_class, 0, -32767), escape + 24);
}

// The entropy of what was counted, given class and grid, in bits.
double Entropy(const SymbolCounts& counts, double& total) {
  double bits = 0;
  total = 0;
  for (int c = 0; c < kSymbolClasses; ++c) {
    for (int g = 0; g < kTrellisGrids; ++g) {
      double sum = 0;
      for (const uint64_t count : counts.bins(c, g)) sum += static_cast<double>(count);
      for (int m = 0; m < SymbolCounts::kBins; ++m) {
        const double count = static_cast<double>(counts.bins(c, g)[m]);
        if (count > 0) bits += count * (std::log2(sum / count) + (m > 0 ? 1 : 0));
      }
      total += sum;
    }
  }
  return bits;
}

double Cost(const SymbolCounts& counts, const EntropyTables& tables) {
  double bits = 0;
  for (int c = 0; c < kSymbolClasses; ++c) {
    for (int g = 0; g < kTrellisGrids; ++g) {
      for (int m = 0; m < SymbolCounts::kBins; ++m) {
        bits += static_cast<double>(counts.bins(c, g)[m]) * tables.Cost(c, g, m);
      }
    }
  }
  return bits;
}

// A small model: the statistics, as the file tells them and with what they are told in.
TEST(EntropyTables, AreNearTheEntropyAndSmall) {
  for (const float spread : {0.15f, 0.5f, 1.0f, 2.0f, 4.0f}) {
    const ScaledCodes codes = RandomCodes(800, 1000, 0, spread, 4);
    SymbolCounts counts;
    counts.Add(codes);
    const EntropyTables tables = EntropyTables::Train(counts);
    double weights;
    const double entropy = Entropy(counts, weights);
    const double cost = Cost(counts, tables), told = 8.0 * tables.Serialize().size();
    if (std::getenv("CVXQ_PRINT") != nullptr) {
      std::printf("%.2f: %.4f b entropy, +%.5f cost, +%.5f told (%zu bytes)\n", spread,
                  entropy / weights, (cost - entropy) / weights, told / weights,
                  tables.Serialize().size());
    }
    EXPECT_LT((cost - entropy) / weights, 0.004);
    EXPECT_LT(tables.Serialize().size(), 300u);
  }
}

TEST(EntropyTables, EveryDamageIsDetected) {
  const std::vector<uint8_t> good = TablesOf(RandomCodes(100, 100, 0, 1, 5)).Serialize();
  for (size_t at = 0; at < good.size(); ++at) {
    for (const int change : {1, 16, 255}) {
      std::vector<uint8_t> bad = good;
      bad[at] ^= static_cast<uint8_t>(change);
      EXPECT_EQ(EntropyTables::Parse(bad).status().code(), absl::StatusCode::kDataLoss) << at;
    }
    const std::vector<uint8_t> cut(good.begin(), good.begin() + static_cast<int64_t>(at));
    EXPECT_EQ(EntropyTables::Parse(cut).status().code(), absl::StatusCode::kDataLoss) << at;
  }
}

// Any bytes with a right checksum are refused or give sound tables.
TEST(EntropyTables, ChangedBytesAreRefusedOrSound) {
  Draws draws(6);
  const std::vector<uint8_t> good = TablesOf(RandomCodes(100, 100, 0, 1, 7)).Serialize();
  int accepted = 0;
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<uint8_t> bytes = good;
    for (size_t i = trial % 2 == 0 ? 0 : draws.Below(bytes.size()); i < bytes.size() - 4;
         i += 1 + draws.Below(bytes.size())) {
      bytes[i] = static_cast<uint8_t>(draws.Below(256));
    }
    const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size() - 4));
    std::memcpy(&bytes[bytes.size() - 4], &checksum, 4);
    const StatusOr<EntropyTables> parsed = EntropyTables::Parse(bytes);
    if (!parsed.ok()) {
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
      continue;
    }
    ++accepted;
    ExpectSound(*parsed);
  }
  EXPECT_GT(accepted, 10);
}

}  // namespace
}  // namespace cvxq
