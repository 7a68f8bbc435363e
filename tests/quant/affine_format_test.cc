#include "quant/affine_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

void Put32(std::vector<uint8_t>& bytes, size_t at, uint32_t value) {
  for (int i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

void FixChecksum(std::vector<uint8_t>& bytes) {
  const size_t body = bytes.size() - 4;
  Put32(bytes, body, static_cast<uint32_t>(crc32_z(0, bytes.data(), body)));
}

struct Spec {
  int64_t rows = 1, columns = 1;
  int bits = 4;
  int64_t group = 1;
  bool column_scales = false;
  int64_t kept = 0;
};

AffineMatrix RandomMatrix(const Spec& spec, uint64_t key) {
  Draws draws(key);
  const auto half = [&](float low, float high) {
    return F16ToFloat(FloatToF16(draws.Uniform(low, high)));
  };
  AffineMatrix m;
  m.rows = spec.rows;
  m.columns = spec.columns;
  m.bits = spec.bits;
  m.group = spec.group;
  for (int64_t c = 0; c < spec.columns && std::ssize(m.kept_columns) < spec.kept; ++c) {
    const bool last_chance = spec.columns - c == spec.kept - std::ssize(m.kept_columns);
    if (last_chance || draws.Below(3) == 0) m.kept_columns.push_back(static_cast<int32_t>(c));
  }
  m.codes.resize(m.rows * m.columns);
  for (uint8_t& code : m.codes) code = static_cast<uint8_t>(draws.Below(1u << m.bits));
  for (const int32_t c : m.kept_columns) {
    for (int64_t r = 0; r < m.rows; ++r) m.codes[r * m.columns + c] = 0;
  }
  for (int64_t i = 0; i < m.rows * m.group_count(); ++i) {
    m.scale.push_back(draws.Below(20) == 0 ? 0.0f : half(0, 3));
    m.zero.push_back(static_cast<uint8_t>(draws.Below(1u << m.bits)));
  }
  if (spec.column_scales) {
    for (int64_t c = 0; c < m.columns; ++c) m.column_scale.push_back(half(0.01f, 20));
  }
  for (int64_t i = 0; i < m.rows * spec.kept; ++i) m.kept.push_back(half(-5, 5));
  return m;
}

void ExpectRoundTrip(const AffineMatrix& m) {
  ASSERT_TRUE(m.Validate().ok()) << m.Validate();
  const std::vector<uint8_t> bytes = SerializeAffineMatrix(m);
  const StatusOr<AffineMatrix> parsed = ParseAffineMatrix(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rows, m.rows);
  EXPECT_EQ(parsed->columns, m.columns);
  EXPECT_EQ(parsed->bits, m.bits);
  EXPECT_EQ(parsed->group, m.group);
  EXPECT_EQ(parsed->codes, m.codes);
  EXPECT_EQ(parsed->scale, m.scale);
  EXPECT_EQ(parsed->zero, m.zero);
  EXPECT_EQ(parsed->column_scale, m.column_scale);
  EXPECT_EQ(parsed->kept_columns, m.kept_columns);
  EXPECT_EQ(parsed->kept, m.kept);
}

TEST(AffineFormat, RandomMatricesComeBack) {
  const Spec shapes[] = {{1, 1, 2, 1},   {1, 9, 3, 4},   {9, 1, 4, 1},
                         {5, 7, 5, 7},   {16, 40, 6, 8}, {3, 200, 7, 64},
                         {37, 29, 8, 5}, {4, 6, 2, 100}, {129, 3, 3, 2147483647}};
  uint64_t key = 0;
  for (Spec spec : shapes) {
    for (const bool column_scales : {false, true}) {
      for (const int64_t kept : {int64_t{0}, int64_t{1}, spec.columns}) {
        for (int bits = 2; bits <= 8; ++bits) {
          spec.column_scales = column_scales;
          spec.kept = kept;
          spec.bits = bits;
          ExpectRoundTrip(RandomMatrix(spec, ++key));
        }
      }
    }
  }
}

TEST(AffineFormat, BytesAreAsDrawn) {
  AffineMatrix m = RandomMatrix({2, 3, 3, 2, true, 1}, 1);
  m.kept_columns = {1};
  m.codes = {5, 0, 3, /**/ 7, 0, 2};
  m.scale = {1, 0.5f, 2, 0};
  m.zero = {1, 2, 3, 4};
  m.column_scale = {1, 2, 0.25f};
  m.kept = {-1, 65504};
  const std::vector<uint8_t> bytes = SerializeAffineMatrix(m);
  const std::vector<uint8_t> body(bytes.begin(), bytes.end() - 4);
  EXPECT_EQ(body,
            (std::vector<uint8_t>{2,    0,    0, 0,    3, 0,    0,    0,   2,    0,    0, 0,
                                  3,    1,    0, 0,    1, 0,    0,    0,   0xdd, 0x05,  // 5 3 7 2
                                  0,    0x3c, 0, 0x38, 0, 0x40, 0,    0,                // scales
                                  0xd1, 0x08,                                           // 1 2 3 4
                                  0,    0x3c, 0, 0x40, 0, 0x34,                         // columns
                                  1,    0,    0, 0,    0, 0xbc, 0xff, 0x7b}));          // kept
  std::vector<uint8_t> fixed = bytes;
  FixChecksum(fixed);
  EXPECT_EQ(fixed, bytes);
  EXPECT_EQ(CodeBytes(m), 2 + 4);
}

std::vector<uint8_t> SmallFile(bool all_parts) {
  return SerializeAffineMatrix(RandomMatrix({6, 9, 3, 4, all_parts, all_parts ? 2 : 0}, 2));
}

absl::StatusCode CodeOf(const std::vector<uint8_t>& bytes) {
  return ParseAffineMatrix(bytes).status().code();
}

TEST(AffineFormat, EveryDamagedByteIsDetected) {
  for (const bool all_parts : {false, true}) {
    const std::vector<uint8_t> good = SmallFile(all_parts);
    ASSERT_EQ(CodeOf(good), absl::StatusCode::kOk);
    for (size_t at = 0; at < good.size(); ++at) {
      for (int change = 1; change < 256; ++change) {
        std::vector<uint8_t> bad = good;
        bad[at] ^= static_cast<uint8_t>(change);
        ASSERT_EQ(CodeOf(bad), absl::StatusCode::kDataLoss) << "byte " << at << " ^ " << change;
      }
    }
  }
}

TEST(AffineFormat, EveryTruncationAndExtensionIsDetected) {
  const std::vector<uint8_t> good = SmallFile(true);
  for (size_t size = 0; size < good.size(); ++size) {
    std::vector<uint8_t> bad(good.begin(), good.begin() + size);
    EXPECT_EQ(CodeOf(bad), absl::StatusCode::kDataLoss) << size;
    if (size < 4) continue;
    FixChecksum(bad);  // a file that was written short
    EXPECT_EQ(CodeOf(bad), absl::StatusCode::kDataLoss) << size << ", checksum right";
  }
  std::vector<uint8_t> bad = good;
  for (int i = 0; i < 10; ++i) {
    bad.push_back(0);
    EXPECT_EQ(CodeOf(bad), absl::StatusCode::kDataLoss);
    FixChecksum(bad);
    EXPECT_EQ(CodeOf(bad), absl::StatusCode::kDataLoss);
  }
}

// With the checksum made right, a change may go unnoticed; what is accepted must then be sound.
TEST(AffineFormat, ChangedFilesAreRefusedOrSound) {
  Draws draws(3);
  int accepted = 0;
  for (int trial = 0; trial < 30000; ++trial) {
    std::vector<uint8_t> bytes = SmallFile(trial % 2 == 0);
    for (uint64_t changes = 1 + draws.Below(3); changes > 0; --changes) {
      bytes[draws.Below(bytes.size() - 4)] = static_cast<uint8_t>(draws.Below(256));
    }
    FixChecksum(bytes);
    const StatusOr<AffineMatrix> parsed = ParseAffineMatrix(bytes);
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
      continue;
    }
    ++accepted;
    ASSERT_TRUE(parsed->Validate().ok()) << parsed->Validate();
    ASSERT_EQ(SerializeAffineMatrix(*parsed), bytes);  // one way to write each matrix
  }
  EXPECT_GT(accepted, 100);  // the codes may be anything
}

TEST(AffineFormat, LiesAboutTheShapeAreRefused) {
  constexpr uint32_t kMost = 0x7fffffff, kAll = 0xffffffff;
  for (const uint32_t rows : {0u, 1u, 6u, 4096u, 1u << 26, 1u << 30, kMost, kAll}) {
    for (const uint32_t columns : {0u, 1u, 9u, 4096u, 1u << 26, 1u << 30, kMost, kAll}) {
      for (const uint32_t kept : {0u, 1u, 2u, 9u, columns, kMost, kAll}) {
        if (rows == 6 && columns == 9 && kept == 2) continue;
        for (const uint32_t group : {0u, 1u, 4u, kMost, kAll}) {
          std::vector<uint8_t> bytes = SmallFile(true);
          Put32(bytes, 0, rows);
          Put32(bytes, 4, columns);
          Put32(bytes, 8, group);
          Put32(bytes, 16, kept);
          FixChecksum(bytes);
          EXPECT_EQ(CodeOf(bytes), absl::StatusCode::kDataLoss)
              << rows << " x " << columns << ", kept " << kept << ", group " << group;
        }
      }
    }
  }
}

std::vector<uint8_t> ReadBytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(AffineFormat, HostileFilesAreRefusedAndGoodOnesRead) {
  const std::filesystem::path folder = CVXQ_SOURCE_DIR "/tests/data/hostile/affine_format";
  int good = 0, bad = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const bool expected = entry.path().filename().string().starts_with("good_");
    ++(expected ? good : bad);
    const Status status = ParseAffineMatrix(ReadBytes(entry.path())).status();
    EXPECT_EQ(status.code(), expected ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss)
        << entry.path() << ": " << status;
    if (expected) continue;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("affine matrix"));
    EXPECT_THAT(std::string(status.message()), testing::Not(testing::HasSubstr("\n")));
  }
  EXPECT_GE(good, 5);
  EXPECT_GE(bad, 40);
}

// The maker of the hostile files has a writer of its own, made from the drawing.
TEST(AffineFormat, AnIndependentWriterIsUnderstood) {
  const std::vector<uint8_t> bytes =
      ReadBytes(CVXQ_SOURCE_DIR "/tests/data/hostile/affine_format/good_kept_and_scaled.bin");
  const StatusOr<AffineMatrix> parsed = ParseAffineMatrix(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->codes, (std::vector<uint8_t>{0, 0, 7, 3, 0, 5, 0, 2, 7, 0}));
  EXPECT_EQ(Decode(*parsed), (std::vector<float>{-0.5f, 10, 0.75f, 0, 11, 0, 12, 0, 0, 13}));
  EXPECT_EQ(SerializeAffineMatrix(*parsed), bytes);
}

}  // namespace
}  // namespace cvxq
