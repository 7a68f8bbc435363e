#include "quant/rans.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/quant/quant_testing.h"
#include "tests/quant/scaled_testing.h"

namespace cvxq {
namespace {

struct Decoded {
  Status status;
  std::vector<int8_t> codes;
  std::vector<ScaledOutlier> outliers;
  std::vector<uint16_t> seeds;
};

Decoded Decode(const ScaledCodes& codes, const EntropyTables& tables, const RansChunk& chunk,
               int64_t index, DecodeRows decode) {
  const RansLayout layout(codes.rows, codes.columns);
  const RansContext context{tables, layout, codes.trellis_rows, codes.row_class,
                            codes.column_class};
  Decoded out{.codes = std::vector<int8_t>(codes.rows * codes.columns, 99),
              .seeds = std::vector<uint16_t>(layout.lanes)};
  const auto* words = reinterpret_cast<const uint8_t*>(chunk.words.data());
  out.status = DecodeChunk(context, index, {words, 2 * chunk.words.size()}, chunk.escapes, decode,
                           out.codes.data(), out.outliers, out.seeds);
  return out;
}

std::vector<uint16_t> RandomSeeds(int lanes, uint64_t key) {
  Draws draws(key);
  std::vector<uint16_t> seeds(lanes);
  for (uint16_t& seed : seeds) seed = static_cast<uint16_t>(draws.Below(65536));
  return seeds;
}

// Integers with many escapes, some of them outliers.
ScaledCodes WithEscapes(int64_t rows, int64_t columns, int64_t trellis_rows, float spread,
                        uint64_t key) {
  ScaledCodes codes = RandomCodes(rows, columns, trellis_rows, spread, key);
  Draws draws(DeriveKey(key, 1));
  for (int64_t i = 0; i < rows * columns / 50; ++i) {
    codes.integers[draws.Below(codes.integers.size())] =
        static_cast<int16_t>(static_cast<int>(draws.Below(400)) - 200);
  }
  return codes;
}

TEST(Rans, EveryDecoderGivesWhatWasEncoded) {
  const int64_t shapes[][2] = {{5, 7}, {4096, 32}, {2000, 95}, {1025, 1100}, {40, 3300}};
  uint64_t key = 0;
  for (const auto& [rows, columns] : shapes) {
    for (const int64_t trellis_rows : {0, 1, 37, 256}) {
      for (const float spread : {0.05f, 0.7f, 8.0f}) {
        const ScaledCodes codes = WithEscapes(rows, columns, trellis_rows, spread, ++key);
        // Trained without the escapes.
        const EntropyTables tables = TablesOf(RandomCodes(300, 300, trellis_rows, spread, key));
        const ScaledMatrix expected = MatrixOf(codes);
        const RansLayout layout(rows, columns);
        for (int64_t i = 0; i < layout.chunks; ++i) {
          const std::vector<uint16_t> seeds = RandomSeeds(layout.lanes, key);
          const RansChunk chunk = EncodeChunk(codes, tables, layout, i, seeds);
          const RansChunkSize size = EncodedSize(codes, tables, layout, i, seeds);
          EXPECT_EQ(size.words, static_cast<int64_t>(chunk.words.size()));
          EXPECT_EQ(size.escapes, static_cast<int64_t>(chunk.escapes.size()));
          for (const DecodeRows decode : DecodersHere()) {
            const Decoded decoded = Decode(codes, tables, chunk, i, decode);
            ASSERT_TRUE(decoded.status.ok()) << decoded.status;
            EXPECT_EQ(decoded.seeds, seeds);
            const int64_t begin = layout.first_column(i), end = begin + layout.width(i);
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t c = 0; c < columns; ++c) {
                ASSERT_EQ(decoded.codes[r * columns + c],
                          c < begin || c >= end ? 99 : expected.codes[r * columns + c])
                    << r << ", " << c;
              }
            }
            size_t outliers = 0;
            for (const ScaledOutlier& o : expected.outliers) {
              outliers += o.column >= begin && o.column < end;
            }
            EXPECT_EQ(decoded.outliers.size(), outliers);
          }
        }
      }
    }
  }
}

TEST(Rans, LayoutCoversEveryColumnOnce) {
  for (const int64_t rows : {1, 30, 4096, 200'000, 3'000'000}) {
    for (const int64_t columns : {1, 31, 32, 33, 4096, 10'000}) {
      const RansLayout layout(rows, columns);
      int64_t next = 0;
      for (int64_t i = 0; i < layout.chunks; ++i) {
        EXPECT_EQ(layout.first_column(i), next);
        EXPECT_GE(layout.width(i), 1);
        next += layout.width(i);
      }
      EXPECT_EQ(next, columns);
      EXPECT_LE(layout.lanes, kRansLanes);
    }
  }
}

// No words whatever make a decoder read out of range, and all agree on what is wrong.
TEST(Rans, BrokenWordsAreRefusedAlikeByAll) {
  for (const int64_t trellis_rows : {0, 100}) {
    const ScaledCodes codes = WithEscapes(4096, 33, trellis_rows, 1, 3);
    const EntropyTables tables = TablesOf(codes);
    const RansLayout layout(codes.rows, codes.columns);
    ASSERT_EQ(layout.lanes, 32);
    const RansChunk good =
        EncodeChunk(codes, tables, layout, 0, std::vector<uint16_t>(layout.lanes));
    Draws draws(4);
    for (int trial = 0; trial < 60; ++trial) {
      RansChunk bad = good;
      switch (trial % 5) {
        case 0:
          bad.words[draws.Below(bad.words.size())] ^= static_cast<uint16_t>(1 + draws.Below(65535));
          break;
        case 1:
          bad.words.resize(draws.Below(bad.words.size()));
          break;
        case 2:
          bad.words.push_back(0);
          break;
        case 3:
          for (uint16_t& word : bad.words) word = static_cast<uint16_t>(draws.Below(65536));
          break;
        case 4:
          bad.escapes[draws.Below(bad.escapes.size())] ^= 128;
          break;
      }
      const Decoded plain = Decode(codes, tables, bad, 0, DecodeRowsPlain);
      EXPECT_EQ(plain.status.code(), absl::StatusCode::kDataLoss) << trial;
      for (const DecodeRows decode : DecodersHere()) {
        EXPECT_EQ(Decode(codes, tables, bad, 0, decode).status, plain.status) << trial;
      }
    }
  }
}

TEST(Rans, WrongEscapesAreRefused) {
  const ScaledCodes codes = WithEscapes(50, 40, 16, 1, 5);
  const EntropyTables tables = TablesOf(RandomCodes(50, 40, 16, 1, 5));
  const RansLayout layout(codes.rows, codes.columns);
  const RansChunk good = EncodeChunk(codes, tables, layout, 0, std::vector<uint16_t>(layout.lanes));
  const auto refused = [&](std::vector<uint8_t> escapes) {
    return !Decode(codes, tables, {good.words, std::move(escapes)}, 0, DecodeRowsPlain).status.ok();
  };
  EXPECT_FALSE(refused(good.escapes));
  ASSERT_GT(good.escapes.size(), 4u);
  EXPECT_TRUE(refused({}));
  std::vector<uint8_t> bad = good.escapes;
  bad.pop_back();
  EXPECT_TRUE(refused(bad));
  bad = good.escapes;
  bad.push_back(0);
  EXPECT_TRUE(refused(bad));
  const std::vector<std::vector<uint8_t>> firsts = {
      {128, 0},            // longer than it need be
      {255, 255, 255, 0},  // four bytes
      {254, 255, 127},     // beyond 32767
  };
  for (const std::vector<uint8_t>& first : firsts) {
    bad = first;
    bad.insert(bad.end(), good.escapes.begin(), good.escapes.end());
    EXPECT_TRUE(refused(bad));
  }
}

}  // namespace
}  // namespace cvxq
