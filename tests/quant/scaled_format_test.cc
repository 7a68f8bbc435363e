#include "quant/scaled_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "quant/rans.h"
#include "quant/scale_grid.h"
#include "tests/quant/quant_testing.h"
#include "tests/quant/scaled_testing.h"

namespace cvxq {
namespace {

constexpr auto kOk = absl::StatusCode::kOk, kDataLoss = absl::StatusCode::kDataLoss;

void ExpectSame(const ScaledMatrix& a, const ScaledMatrix& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.columns, b.columns);
  EXPECT_TRUE(a.codes == b.codes);
  EXPECT_EQ(a.row_scale, b.row_scale);
  EXPECT_EQ(a.column_scale, b.column_scale);
  ASSERT_EQ(a.outliers.size(), b.outliers.size());
  for (size_t i = 0; i < a.outliers.size(); ++i) {
    EXPECT_EQ(a.outliers[i].row, b.outliers[i].row);
    EXPECT_EQ(a.outliers[i].column, b.outliers[i].column);
    EXPECT_EQ(a.outliers[i].code, b.outliers[i].code);
  }
}

void ExpectRoundTrip(const ScaledCodes& codes, const EntropyTables& tables) {
  const std::vector<uint8_t> bytes = SerializeScaledMatrix(codes, tables);
  EXPECT_EQ(ScaledMatrixBytes(codes, tables), static_cast<int64_t>(bytes.size()));
  const StatusOr<ScaledMatrix> parsed = ParseScaledMatrix(bytes, tables, codes.rows, codes.columns);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->Validate().ok()) << parsed->Validate();
  ExpectSame(MatrixOf(codes), *parsed);
}

TEST(ScaledFormat, OddShapesComeBack) {
  const int64_t shapes[][2] = {{1, 1},     {1, 40},     {40, 1},     {2, 3},      {33, 31},
                               {31, 33},   {65, 129},   {200, 63},   {9000, 15},  {4100, 32},
                               {300, 700}, {140000, 1}, {1, 140000}, {2051, 1100}};
  uint64_t key = 0;
  for (const auto& [rows, columns] : shapes) {
    for (const int64_t trellis_rows : {0, 1, 50}) {
      for (const float spread : {0.3f, 3.0f}) {
        SCOPED_TRACE(absl::StrCat(rows, " x ", columns, ", ", trellis_rows, ", ", spread));
        const ScaledCodes codes = RandomCodes(rows, columns, trellis_rows, spread, ++key);
        ExpectRoundTrip(codes, TablesOf(codes));
      }
    }
  }
}

TEST(ScaledFormat, EveryScaleGridComesBack) {
  for (const int steps : {1, 2, 4, 8, 16}) {
    ScaledCodes codes = RandomCodes(20, 30, 0, 1, steps, steps);
    ExpectRoundTrip(codes, TablesOf(codes));
    // Ends of the grid, side by side. Their products with the gain must still be numbers.
    for (int r = 0; r < 20; ++r) {
      codes.row_scale[r] =
          static_cast<int16_t>((r % 2 ? kMinScaleIndex : kMaxScaleIndex) * steps / 16);
    }
    for (int c = 0; c < 30; ++c) {
      codes.column_scale[c] =
          static_cast<int16_t>((c % 3 ? kMinScaleIndex : kMaxScaleIndex) * steps / 16);
    }
    ExpectRoundTrip(codes, TablesOf(codes));
  }
}

TEST(ScaledFormat, ExtremeIntegersComeBack) {
  for (const int64_t trellis_rows : {0, 7}) {
    for (const int64_t columns : {50, 2000}) {
      ScaledCodes codes = RandomCodes(100, columns, trellis_rows, 2, 5);
      const EntropyTables tables = TablesOf(codes);
      Draws draws(6);
      for (int i = 0; i < 500; ++i) {
        const int far = static_cast<int>(draws.Below(65535)) - 32767;
        const int near = static_cast<int>(draws.Below(300)) - 150;
        int16_t& k = codes.integers[draws.Below(codes.integers.size())];
        k = static_cast<int16_t>(i % 3 == 0 ? far : i % 3 == 1 ? near : i % 2 ? 32767 : -32767);
      }
      for (const int k : {-32767, 32767, 127, -127, 128, -128, 63, 64, -63, -64, 65}) {
        codes.integers[200 + k % 97] = static_cast<int16_t>(k);
      }
      ExpectRoundTrip(codes, tables);
      AssignClasses(codes);
      ExpectRoundTrip(codes, TablesOf(codes));
      ExpectRoundTrip(codes, EntropyTables::Train(SymbolCounts()));  // all escape
    }
  }
}

TEST(ScaledFormat, ZerosComeBackAndCostNextToNothing) {
  ScaledCodes codes = RandomCodes(1000, 1000, 0, 0, 7);
  const EntropyTables tables = TablesOf(codes);
  ExpectRoundTrip(codes, tables);
  EXPECT_LT(ScaledMatrixBytes(codes, tables), 1500);
}

TEST(ScaledFormat, TablesOfOtherIntegersWillDo) {
  const ScaledCodes fine = RandomCodes(60, 70, 0, 20, 8), coarse = RandomCodes(60, 70, 0, 0.2f, 9);
  ExpectRoundTrip(fine, TablesOf(coarse));
  ExpectRoundTrip(coarse, TablesOf(fine));
}

TEST(ScaledFormat, ThreadsDoNotMatter) {
  const ScaledCodes codes = RandomCodes(2000, 2200, 256, 1, 10);
  ASSERT_GT(RansLayout(codes.rows, codes.columns).chunks, 3);
  const EntropyTables tables = TablesOf(codes);
  ThreadPool pool(3);
  const std::vector<uint8_t> bytes = SerializeScaledMatrix(codes, tables, &pool);
  EXPECT_TRUE(bytes == SerializeScaledMatrix(codes, tables));
  EXPECT_EQ(ScaledMatrixBytes(codes, tables, &pool), static_cast<int64_t>(bytes.size()));
  const StatusOr<ScaledMatrix> parsed =
      ParseScaledMatrix(bytes, tables, codes.rows, codes.columns, &pool);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ExpectSame(MatrixOf(codes), *parsed);
}

// The ideal: each integer at its cost by the tables.
double IdealBits(const ScaledCodes& codes, const EntropyTables& tables) {
  std::vector<int> state(codes.columns);
  double bits = 0;
  for (int64_t r = 0; r < codes.rows; ++r) {
    if (codes.trellis_rows > 0 && r % codes.trellis_rows == 0) state.assign(codes.columns, 0);
    for (int64_t c = 0; c < codes.columns; ++c) {
      const int k = codes.integers[r * codes.columns + c];
      bits += tables.Cost(SymbolClass(codes.row_class[r], codes.column_class[c]),
                          kTrellis.grid[state[c]], k);
      state[c] = kTrellis.Next(state[c], k);
    }
  }
  return bits;
}

TEST(ScaledFormat, CodesCostWhatTheTablesSay) {
  for (const int64_t trellis_rows : {0, 16}) {
    for (const float spread : {0.2f, 1.0f, 6.0f}) {
      for (const int64_t columns : {256, 1500}) {
        ScaledCodes codes = RandomCodes(512, columns, trellis_rows, spread, 11);
        // Side information that costs a few bytes.
        std::fill(codes.row_scale.begin(), codes.row_scale.end(), int16_t{0});
        std::fill(codes.column_scale.begin(), codes.column_scale.end(), int16_t{0});
        const EntropyTables tables = TablesOf(codes);
        const double ideal = IdealBits(codes, tables) / 8;
        const double bytes = static_cast<double>(ScaledMatrixBytes(codes, tables));
        // Classes of about 4 bits each, states, header.
        const double other = (512 + static_cast<double>(columns)) * 4 / 8 + 32 * 4 + 60;
        EXPECT_LT(bytes, ideal * 1.0005 + other) << trellis_rows << ' ' << spread << ' ' << columns;
        EXPECT_GT(bytes, ideal);
      }
    }
  }
}

// Files of one chunk and of several, with a pool or without.
struct File {
  ScaledCodes codes;
  EntropyTables tables;
  std::vector<uint8_t> bytes;

  File(int64_t rows, int64_t columns, int64_t trellis_rows, float spread)
      : codes(RandomCodes(rows, columns, trellis_rows, spread, 12)),
        tables(TablesOf(codes)),
        bytes(SerializeScaledMatrix(codes, tables)) {}
  Status Parse(const std::vector<uint8_t>& changed) const {
    return ParseScaledMatrix(changed, tables, codes.rows, codes.columns).status();
  }
};

TEST(ScaledFormat, EveryDamagedByteIsDetected) {
  const File file(9, 11, 4, 1);
  ASSERT_EQ(file.Parse(file.bytes).code(), kOk);
  for (size_t at = 0; at < file.bytes.size(); ++at) {
    for (int change = 1; change < 256; ++change) {
      std::vector<uint8_t> bad = file.bytes;
      bad[at] ^= static_cast<uint8_t>(change);
      ASSERT_EQ(file.Parse(bad).code(), kDataLoss) << "byte " << at << " ^ " << change;
    }
  }
}

void FixChecksum(std::vector<uint8_t>& bytes) {
  const size_t body = bytes.size() - 4;
  const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, bytes.data(), body));
  std::memcpy(&bytes[body], &checksum, 4);
}

TEST(ScaledFormat, EveryTruncationAndExtensionIsDetected) {
  const File file(9, 11, 4, 1);
  for (size_t size = 0; size < file.bytes.size(); ++size) {
    std::vector<uint8_t> bad(file.bytes.begin(), file.bytes.begin() + static_cast<int64_t>(size));
    EXPECT_EQ(file.Parse(bad).code(), kDataLoss) << size;
    if (size < 4) continue;
    FixChecksum(bad);  // a file that was written short
    EXPECT_EQ(file.Parse(bad).code(), kDataLoss) << size << ", checksum right";
  }
  std::vector<uint8_t> bad = file.bytes;
  bad.push_back(0);
  EXPECT_EQ(file.Parse(bad).code(), kDataLoss);
}

TEST(ScaledFormat, DamageIsNamedByChunk) {
  const File file(4096, 1024, 256, 0.1f);
  ASSERT_EQ(RansLayout(4096, 1024).chunks, 4);
  std::vector<uint8_t> bad = file.bytes;
  bad[bad.size() / 2 + bad.size() / 8] ^= 1;  // in the middle of the third
  EXPECT_EQ(file.Parse(bad).message(),
            "the scaled matrix is corrupt: chunk 3 of 4 does not match its checksum; get the file "
            "again");
  bad = file.bytes;
  bad.pop_back();
  EXPECT_EQ(file.Parse(bad).message(),
            "the scaled matrix is corrupt: chunk 4 of 4 is cut off; get the file again");
  for (size_t at = 0; at < file.bytes.size(); at += file.bytes.size() / 97) {
    bad = file.bytes;
    bad[at] ^= 0x10;
    EXPECT_EQ(file.Parse(bad).code(), kDataLoss) << at;
    bad = file.bytes;
    bad.resize(at);
    EXPECT_EQ(file.Parse(bad).code(), kDataLoss) << at;
  }
}

TEST(ScaledFormat, TheShapeMustFit) {
  const File file(9, 11, 4, 1);
  const auto parse = [&](int64_t rows, int64_t columns) {
    return ParseScaledMatrix(file.bytes, file.tables, rows, columns).status();
  };
  EXPECT_EQ(parse(11, 9).message(),
            "the scaled matrix is corrupt: it says that it is 9 x 11, not 11 x 9; get the file "
            "again");
  EXPECT_EQ(parse(9, 12).code(), kDataLoss);
}

// One way to say "never": rows from M up are refused.
TEST(ScaledFormat, ATrellisThatStartsAnewBelowTheLastRowIsRefused) {
  ScaledCodes codes = RandomCodes(9, 11, 8, 1, 14);
  const EntropyTables tables = TablesOf(codes);
  ExpectRoundTrip(codes, tables);
  for (const int64_t trellis_rows : {9, 10, 1000}) {
    codes.trellis_rows = trellis_rows;
    EXPECT_EQ(ParseScaledMatrix(SerializeScaledMatrix(codes, tables), tables, 9, 11).status(),
              absl::DataLossError("the scaled matrix is corrupt: its trellis starts anew below its "
                                  "last row; get the file again"));
  }
}

TEST(ScaledFormat, AGainThatIsNoScaleIsRefused) {
  const File file(3, 5, 0, 1);
  for (const float gain : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                           std::numeric_limits<float>::quiet_NaN(), 3e38f}) {
    ScaledCodes codes = file.codes;
    codes.gain = gain;
    codes.row_scale[1] = 8;
    EXPECT_EQ(file.Parse(SerializeScaledMatrix(codes, file.tables)).code(), kDataLoss) << gain;
  }
}

// With the checksum made right, a change may go unnoticed; what is accepted must then be sound.
TEST(ScaledFormat, ChangedFilesAreRefusedOrSound) {
  const File files[] = {File(7, 9, 0, 1), File(7, 9, 3, 1), File(60, 2, 16, 30)};
  Draws draws(13);
  int accepted = 0;
  for (int trial = 0; trial < 30000; ++trial) {
    const File& file = files[trial % 3];
    std::vector<uint8_t> bytes = file.bytes;
    for (uint64_t changes = 1 + draws.Below(3); changes > 0; --changes) {
      bytes[draws.Below(bytes.size() - 4)] = static_cast<uint8_t>(draws.Below(256));
    }
    FixChecksum(bytes);
    const StatusOr<ScaledMatrix> parsed =
        ParseScaledMatrix(bytes, file.tables, file.codes.rows, file.codes.columns);
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), kDataLoss);
      continue;
    }
    ++accepted;
    ASSERT_TRUE(parsed->Validate().ok()) << parsed->Validate();
  }
  EXPECT_GT(accepted, 30);
}

std::vector<uint8_t> ReadHostile(const std::filesystem::path& name) {
  std::ifstream file(CVXQ_SOURCE_DIR "/tests/data/hostile/scaled_format" / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The shape that the good files give themselves, 4 x 3 for those that are no good.
std::pair<int64_t, int64_t> ShapeOf(const std::string& name) {
  if (name.starts_with("good_rows_anew")) return {9, 5};
  if (name.starts_with("good_one_weight") || name.starts_with("escape_") ||
      name.starts_with("trellis_rows_of_one")) {
    return {1, 1};
  }
  if (name.starts_with("good_zeros")) return {300, 40};
  if (name.find("many_lanes") != std::string::npos) return {4096, 33};
  return {4, 3};
}

TEST(ScaledFormat, HostileFilesAreRefused) {
  int good = 0, bad = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(CVXQ_SOURCE_DIR "/tests/data/hostile/scaled_format")) {
    const std::string name = entry.path().filename().string();
    const bool expected = name.starts_with("good_");
    ++(expected ? good : bad);
    const EntropyTables tables = EntropyTables::Train(SymbolCounts());
    const auto shape = ShapeOf(name);
    const StatusOr<ScaledMatrix> parsed =
        ParseScaledMatrix(ReadHostile(name), tables, shape.first, shape.second);
    EXPECT_EQ(parsed.status().code(), expected ? kOk : kDataLoss) << name << parsed.status();
    if (expected) continue;
    EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr("scaled matrix"));
    EXPECT_THAT(std::string(parsed.status().message()), testing::Not(testing::HasSubstr("\n")));
  }
  EXPECT_GE(good, 10);
  EXPECT_GE(bad, 50);
}

// The maker of the hostile files has coders of its own, written from the description: the format is
// what the description says.
TEST(ScaledFormat, AnIndependentWriterIsUnderstood) {
  ScaledCodes codes{.rows = 4,
                    .columns = 3,
                    .scale_steps = 4,
                    .row_scale = {3, 2, 1, 0},
                    .column_scale = {-5, -3, -1},
                    .gain = 0.5f};
  for (int i = 0; i < 12; ++i) codes.integers.push_back(static_cast<int16_t>(i * 7 % 5 - 2));
  const EntropyTables tables = EntropyTables::Train(SymbolCounts());
  for (const int64_t trellis_rows : {0, 3}) {
    codes.trellis_rows = trellis_rows;
    const StatusOr<ScaledMatrix> parsed = ParseScaledMatrix(
        ReadHostile(trellis_rows == 0 ? "good_plain.bin" : "good_anew_after_three.bin"), tables, 4,
        3);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ExpectSame(MatrixOf(codes), *parsed);
  }
}

}  // namespace
}  // namespace cvxq
