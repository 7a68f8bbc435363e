#include "quant/packed_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "quant/range_coder.h"
#include "quant/scale_grid.h"
#include "tests/kernels/packed_test_matrix.h"
#include "tests/quant/quant_testing.h"

namespace {

// The largest single allocation of the program since it was last set to zero.
std::atomic<size_t> largest_allocation;

void* TryAllocate(size_t size) {
  size_t before = largest_allocation.load();
  while (before < size && !largest_allocation.compare_exchange_weak(before, size)) {
  }
  return std::malloc(std::max<size_t>(size, 1));
}

void* Allocate(size_t size) {
  void* memory = TryAllocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t size) { return Allocate(size); }
void* operator new[](size_t size) { return Allocate(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return TryAllocate(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return TryAllocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace cvxq {
namespace {

constexpr size_t kHeaderBytes = 24;

void Put32(std::vector<uint8_t>& bytes, size_t at, uint32_t value) {
  for (int i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

void FixChecksum(std::vector<uint8_t>& bytes) {
  const size_t body = bytes.size() - 4;
  Put32(bytes, body, static_cast<uint32_t>(crc32_z(0, bytes.data(), body)));
}

// A random matrix as codecs make it: members ascend in clusters, scales and means lie on the grid.
PackedMatrix OnGrid(const RandomPackedSpec& spec, int steps, uint64_t key) {
  PackedMatrix matrix = RandomPackedMatrix(spec, key);
  Draws draws(DeriveKey(key, 1));
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    std::sort(matrix.members.begin() + matrix.cluster_begin(c),
              matrix.members.begin() + matrix.cluster_end(c));
  }
  const int ratio = 16 / steps;
  for (size_t g = 0; g < matrix.scale.size(); ++g) {
    // Mostly alike, now and then anywhere on the grid.
    int index = static_cast<int>(draws.Below(9)) - 4 - 6 * steps;
    if (draws.Below(50) == 0) {
      index =
          (kMinScaleIndex + static_cast<int>(draws.Below(kMaxScaleIndex - kMinScaleIndex))) / ratio;
    }
    matrix.scale[g] = ScaleFromIndex(index, steps);
    if (matrix.mean.empty()) continue;
    const int spread = draws.Below(50) == 0 ? kMaxMeanIndex : 6;
    matrix.mean[g] =
        MeanFromIndex(static_cast<int>(draws.Below(2 * spread + 1)) - spread, matrix.scale[g]);
  }
  return matrix;
}

void ExpectSame(const PackedMatrix& a, const PackedMatrix& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.columns, b.columns);
  EXPECT_EQ(a.partition, b.partition);
  EXPECT_EQ(a.cluster_size, b.cluster_size);
  EXPECT_EQ(a.members, b.members);
  EXPECT_EQ(a.depth, b.depth);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.table, b.table);
  EXPECT_EQ(a.codes, b.codes);
  for (size_t g = 0; g < a.scale.size(); ++g) {  // a pruned group without a mean has no scale
    if (a.depth[g] > 0 || !a.mean.empty()) {
      EXPECT_EQ(a.scale[g], b.scale[g]);
    }
  }
  EXPECT_EQ(Decode(a), Decode(b));
}

void ExpectRoundTrip(const PackedMatrix& matrix, int steps) {
  const std::vector<uint8_t> bytes = SerializePackedMatrix(matrix, steps, 0);
  const TableSet tables[] = {matrix.table};
  const StatusOr<PackedMatrix> parsed = ParsePackedMatrix(bytes, tables);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ExpectSame(matrix, *parsed);
}

std::vector<TableSet> SomeTables() {
  TableSet tables;
  for (int b = 1; b <= kMaxDepth; ++b) {
    for (int i = 0; i < 1 << b; ++i) tables[b].push_back(i - (1 << b) / 2 + 0.5f);
  }
  return {tables};
}

absl::StatusCode CodeOf(const std::vector<uint8_t>& bytes) {
  static const std::vector<TableSet> tables = SomeTables();
  return ParsePackedMatrix(bytes, tables).status().code();
}

TEST(PackedFormat, RandomMatricesComeBack) {
  const RandomPackedSpec shapes[] = {{1, 1, 1},    {1, 9, 1},   {9, 1, 4},    {5, 7, 2},
                                     {16, 40, 16}, {40, 16, 5}, {37, 129, 8}, {129, 37, 9},
                                     {200, 3, 1},  {3, 200, 3}};
  uint64_t key = 0;
  for (RandomPackedSpec spec : shapes) {
    for (const Partition partition : {Partition::kColumns, Partition::kRows}) {
      for (const bool means : {false, true}) {
        for (const int steps : {1, 2, 4, 8, 16}) {
          spec.partition = partition;
          spec.means = means;
          spec.cluster_size = std::min(spec.cluster_size,
                                       partition == Partition::kColumns ? spec.rows : spec.columns);
          ExpectRoundTrip(OnGrid(spec, steps, ++key), steps);
        }
      }
    }
  }
}

TEST(PackedFormat, EveryDepthComesBack) {
  for (int depth = 0; depth <= kMaxDepth; ++depth) {
    for (const bool means : {false, true}) {
      ExpectRoundTrip(OnGrid({20, 31, 8, Partition::kColumns, means, depth, depth}, 4, depth), 4);
    }
  }
}

// Numbers at the ends of their ranges, side by side.
TEST(PackedFormat, ExtremeSideInformationComesBack) {
  for (const int steps : {1, 4, 16}) {
    PackedMatrix matrix = OnGrid({6, 40, 2, Partition::kColumns, true}, steps, 5);
    const int ratio = 16 / steps;
    for (size_t g = 0; g < matrix.scale.size(); ++g) {
      const int index = (g % 2 == 0 ? kMinScaleIndex : kMaxScaleIndex) / ratio;
      matrix.scale[g] = ScaleFromIndex(index, steps);
      matrix.mean[g] = MeanFromIndex(g % 3 == 0 ? kMaxMeanIndex : -kMaxMeanIndex, matrix.scale[g]);
    }
    ExpectRoundTrip(matrix, steps);
  }
}

// More groups than the allowance for small files, all as likely as can be: the bound on groups by
// bytes must not refuse them.
TEST(PackedFormat, HugeUniformMatricesComeBack) {
  for (const int depth : {0, 1}) {
    PackedMatrix matrix;
    matrix.rows = 1;
    matrix.columns = 2'500'000;
    matrix.cluster_size = 1;
    matrix.members = {0};
    matrix.depth.assign(matrix.columns, depth);
    matrix.scale.assign(matrix.columns, 1.0f);
    matrix.table = SomeTables()[0];
    matrix.codes.assign(CodeBytes(matrix), 0x5a);
    const std::vector<uint8_t> bytes = SerializePackedMatrix(matrix, 4, 0);
    const StatusOr<PackedMatrix> parsed = ParsePackedMatrix(bytes, SomeTables());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->depth, matrix.depth);
    EXPECT_EQ(parsed->codes, matrix.codes);
  }
}

TEST(PackedFormat, SideInformationIsSmall) {
  // 64 rows a cluster; depths and scales as dual ascent gives them: depths that hardly change from
  // cluster to cluster, scales a step or two from the mean.
  PackedMatrix matrix = OnGrid({1024, 256, 64, Partition::kColumns, false, 2, 3}, 4, 6);
  Draws draws(7);
  for (size_t g = 0; g < matrix.depth.size(); ++g) {
    matrix.depth[g] = draws.Below(10) == 0 ? 2 : 3;
    matrix.scale[g] = ScaleFromIndex(static_cast<int>(draws.Below(3)) - 20, 4);
  }
  matrix.codes.assign(CodeBytes(matrix), 0);
  const size_t bytes = SerializePackedMatrix(matrix, 4, 0).size() - matrix.codes.size();
  // Entropy: H(.1) + log2 3 = 2.05 bits a group of 64 weights, and 4 bits a row.
  const double entropy = matrix.depth.size() * 2.054 + 1024 * 4;
  EXPECT_LT(bytes * 8.0, entropy * 1.05 + 800);
}

TEST(PackedFormat, HeaderIsAsDrawn) {
  const PackedMatrix matrix = OnGrid({5, 300, 2, Partition::kRows, true}, 8, 8);
  const std::vector<uint8_t> bytes = SerializePackedMatrix(matrix, 8, 3);
  const std::vector<uint8_t> header(bytes.begin(), bytes.begin() + 20);
  EXPECT_EQ(header, (std::vector<uint8_t>{5, 0, 0, 0, 44, 1, 0, 0, 2, 0,  //
                                          0, 0, 3, 8, 3,  0, 0, 0, 0, 0}));
  const size_t side = bytes[20] | bytes[21] << 8;
  EXPECT_EQ(bytes.size(), kHeaderBytes + side + matrix.codes.size() + 4);
  EXPECT_TRUE(
      std::equal(matrix.codes.begin(), matrix.codes.end(), bytes.begin() + kHeaderBytes + side));
  std::vector<uint8_t> fixed = bytes;
  FixChecksum(fixed);
  EXPECT_EQ(fixed, bytes);
}

TEST(PackedFormat, TheFamilyPicksTheTables) {
  const PackedMatrix matrix = OnGrid({4, 4, 2, Partition::kColumns, false, 1, 3}, 4, 9);
  std::vector<TableSet> tables = {SomeTables()[0], matrix.table};
  const std::vector<uint8_t> bytes = SerializePackedMatrix(matrix, 4, 1);
  const StatusOr<PackedMatrix> parsed = ParsePackedMatrix(bytes, tables);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ExpectSame(matrix, *parsed);
  tables.pop_back();
  EXPECT_EQ(ParsePackedMatrix(bytes, tables).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParsePackedMatrix(bytes, {}).status().code(), absl::StatusCode::kDataLoss);
}

std::vector<uint8_t> SmallFile(bool means) {
  const PackedMatrix matrix = OnGrid({6, 8, 2, Partition::kColumns, means, 0, 4}, 4, 10);
  return SerializePackedMatrix(matrix, 4, 0);
}

TEST(PackedFormat, EveryDamagedByteIsDetected) {
  for (const bool means : {false, true}) {
    const std::vector<uint8_t> good = SmallFile(means);
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

TEST(PackedFormat, EveryTruncationAndExtensionIsDetected) {
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
TEST(PackedFormat, ChangedFilesAreRefusedOrSound) {
  const std::vector<TableSet> tables = SomeTables();
  Draws draws(11);
  int accepted = 0;
  for (int trial = 0; trial < 30000; ++trial) {
    std::vector<uint8_t> bytes = SmallFile(trial % 2 == 0);
    for (uint64_t changes = 1 + draws.Below(3); changes > 0; --changes) {
      bytes[draws.Below(bytes.size() - 4)] = static_cast<uint8_t>(draws.Below(256));
    }
    FixChecksum(bytes);
    const StatusOr<PackedMatrix> parsed = ParsePackedMatrix(bytes, tables);
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
      continue;
    }
    ++accepted;
    ASSERT_TRUE(parsed->Validate().ok()) << parsed->Validate();
    if (parsed->rows * parsed->columns < 10000) {
      EXPECT_EQ(Decode(*parsed).size(), static_cast<size_t>(parsed->rows * parsed->columns));
    }
  }
  EXPECT_GT(accepted, 100);  // the codes alone may be anything
}

struct Lie {
  const char* what;
  size_t at;
  uint32_t value;
};

TEST(PackedFormat, LyingHeadersAreRefusedAndTakeNoMemory) {
  constexpr uint32_t kAll = 0xffffffff;
  const Lie lies[] = {
      {"no rows", 0, 0},
      {"all rows", 0, kAll},
      {"2^31 rows", 0, 1u << 31},
      {"2^31 - 1 rows", 0, (1u << 31) - 1},
      {"2^26 rows", 0, 1u << 26},
      {"rows of another file", 0, 7},
      {"no columns", 4, 0},
      {"all columns", 4, kAll},
      {"2^31 - 1 columns", 4, (1u << 31) - 1},
      {"10 million columns", 4, 10'000'000},
      {"one column more", 4, 9},
      {"clusters of nothing", 8, 0},
      {"clusters beyond the members", 8, 7},
      {"clusters of everything", 8, kAll},
      {"other clusters", 8, 3},
      {"unknown flag", 12, 4 | 4 << 8},
      {"all flags", 12, 0xff | 4 << 8},
      {"no scale steps", 12, 0},
      {"three scale steps", 12, 3 << 8},
      {"32 scale steps", 12, 32 << 8},
      {"another family", 12, 4 << 8 | 1 << 16},
      {"the last family", 12, 4 << 8 | 255u << 16},
      {"byte 15", 12, 4 << 8 | 1u << 24},
      {"reserved", 16, 1},
      {"reserved, high", 16, 1u << 31},
      {"side information of everything", 20, kAll},
      {"side information beyond the end", 20, 100000},
      {"no side information", 20, 0},
  };
  for (const Lie& lie : lies) {
    std::vector<uint8_t> bytes = SmallFile(false);
    Put32(bytes, lie.at, lie.value);
    FixChecksum(bytes);
    largest_allocation = 0;
    EXPECT_EQ(CodeOf(bytes), absl::StatusCode::kDataLoss) << lie.what;
    EXPECT_LT(largest_allocation.load(), 16u << 20) << lie.what;
  }
}

TEST(PackedFormat, LiesAboutBothSidesTakeNoMemory) {
  for (const uint32_t rows : {1u, 4096u, 1u << 20, 1u << 26, (1u << 31) - 1}) {
    for (const uint32_t columns : {1u, 4096u, 1u << 20, (1u << 31) - 1}) {
      for (const uint32_t cluster : {1u, 256u, rows}) {
        for (const uint8_t flags : {0, 1, 2, 3}) {
          std::vector<uint8_t> bytes = SmallFile(false);
          Put32(bytes, 0, rows);
          Put32(bytes, 4, columns);
          Put32(bytes, 8, cluster);
          bytes[12] = flags;
          FixChecksum(bytes);
          largest_allocation = 0;
          EXPECT_EQ(CodeOf(bytes), absl::StatusCode::kDataLoss);
          EXPECT_LT(largest_allocation.load(), 16u << 20) << rows << " x " << columns;
        }
      }
    }
  }
}

// Streams that are sound range code with lies in them: made by the coder itself.
class Stream {
 public:
  Stream& Plain(uint32_t value, int bits) {
    for (int i = bits - 1; i >= 0; --i) encoder_.EncodeEven((value >> i) & 1);
    return *this;
  }
  Stream& Means(uint32_t depth, int index) { return Plain(depth, 4).Plain(index + 2048, 12); }
  Stream& Number(SignedModel& model, int value) {
    model.Encode(encoder_, value);
    return *this;
  }
  // A file of one line for each group, clusters of one member, no codes but `codes` bytes of them.
  absl::StatusCode ParseAs(uint32_t rows, uint8_t flags, size_t codes) {
    std::vector<uint8_t> side = encoder_.Finish();
    std::vector<uint8_t> bytes(kHeaderBytes);
    Put32(bytes, 0, rows);
    Put32(bytes, 4, 1);
    Put32(bytes, 8, 1);
    bytes[12] = flags;
    bytes[13] = 16;
    Put32(bytes, 20, static_cast<uint32_t>(side.size()));
    bytes.insert(bytes.end(), side.begin(), side.end());
    bytes.resize(bytes.size() + codes + 4);
    FixChecksum(bytes);
    return CodeOf(bytes);
  }

 private:
  RangeEncoder encoder_;
};

TEST(PackedFormat, LiesInTheStreamAreRefused) {
  constexpr auto kOk = absl::StatusCode::kOk, kDataLoss = absl::StatusCode::kDataLoss;
  SignedModel depth, scale, mean;
  const auto fresh = [&] { depth = scale = mean = SignedModel(); };
  // One group of depth 2, scale index -5: what is good is accepted.
  fresh();
  EXPECT_EQ(Stream().Means(3, 0).Number(depth, -1).Number(scale, -5).ParseAs(1, 0, 1), kOk);
  fresh();
  EXPECT_EQ(Stream().Means(3, 0).Number(depth, -4).Number(scale, 0).ParseAs(1, 0, 1), kDataLoss);
  fresh();
  EXPECT_EQ(Stream().Means(3, 0).Number(depth, 6).Number(scale, 0).ParseAs(1, 0, 2), kDataLoss);
  fresh();
  EXPECT_EQ(Stream().Means(2, 0).Number(depth, 0).Number(scale, 1901).ParseAs(1, 0, 1), kDataLoss);
  fresh();
  EXPECT_EQ(Stream().Means(2, 0).Number(depth, 0).Number(scale, -2001).ParseAs(1, 0, 1), kDataLoss);
  fresh();
  EXPECT_EQ(Stream().Means(2, 2047).Number(depth, 0).Number(scale, 4096).ParseAs(1, 0, 1),
            kDataLoss);
  fresh();
  EXPECT_EQ(Stream().Means(15, 0).Number(depth, 1).Number(scale, 0).ParseAs(1, 0, 2), kDataLoss);
  for (const int value : {127, -127}) {
    fresh();
    Stream good, bad;
    good.Means(2, 0).Number(depth, 0).Number(scale, 0).Number(mean, value);
    EXPECT_EQ(good.ParseAs(1, 2, 1), kOk);
    fresh();
    bad.Means(2, 0).Number(depth, 0).Number(scale, 0).Number(mean, value < 0 ? -128 : 128);
    EXPECT_EQ(bad.ParseAs(1, 2, 1), kDataLoss);
  }
  // Three members, clusters of one: each cluster once, none beyond the last.
  const auto members = [&](uint32_t a, uint32_t b, uint32_t c) {
    fresh();
    Stream stream;
    stream.Plain(a, 2).Plain(b, 2).Plain(c, 2);
    for (int i = 0; i < 3; ++i) stream.Means(0, 0).Number(depth, 0);
    return stream.ParseAs(3, 0, 0);
  };
  EXPECT_EQ(members(2, 0, 1), kOk);
  EXPECT_EQ(members(0, 0, 1), kDataLoss);
  EXPECT_EQ(members(0, 1, 3), kDataLoss);
}

TEST(PackedFormat, HostileFilesAreRefusedAndGoodOnesRead) {
  const std::filesystem::path folder = CVXQ_SOURCE_DIR "/tests/data/hostile/packed_format";
  int good = 0, bad = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file),
                                     std::istreambuf_iterator<char>()};
    const bool expected = entry.path().filename().string().starts_with("good_");
    ++(expected ? good : bad);
    largest_allocation = 0;
    const StatusOr<PackedMatrix> parsed = ParsePackedMatrix(bytes, SomeTables());
    EXPECT_LT(largest_allocation.load(), 16u << 20) << entry.path();
    EXPECT_EQ(parsed.status().code(),
              expected ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss)
        << entry.path() << ": " << parsed.status();
    if (expected) continue;
    EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr("packed matrix"));
    EXPECT_THAT(std::string(parsed.status().message()), testing::Not(testing::HasSubstr("\n")));
  }
  EXPECT_GE(good, 5);
  EXPECT_GE(bad, 30);
}

// The maker of the hostile files has a range coder of its own, written from the description: the
// format is what the description says.
TEST(PackedFormat, AnIndependentWriterIsUnderstood) {
  std::ifstream file(CVXQ_SOURCE_DIR "/tests/data/hostile/packed_format/good_means_rows.bin",
                     std::ios::binary);
  const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file),
                                   std::istreambuf_iterator<char>()};
  const StatusOr<PackedMatrix> parsed = ParsePackedMatrix(bytes, SomeTables());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rows, 3);
  EXPECT_EQ(parsed->columns, 5);
  EXPECT_EQ(parsed->partition, Partition::kRows);
  EXPECT_EQ(parsed->members, (std::vector<int32_t>{1, 4, 0, 3, 2}));
  EXPECT_EQ(parsed->depth, (std::vector<uint8_t>{2, 0, 3, 1, 1, 4, 8, 0, 5}));
  for (int g = 0; g < 9; ++g) {
    EXPECT_EQ(parsed->scale[g], ScaleFromIndex(g - 12, 4));
    EXPECT_EQ(parsed->mean[g], MeanFromIndex(10 * g - 40, parsed->scale[g]));
  }
  EXPECT_EQ(SerializePackedMatrix(*parsed, 4, 0), bytes);
}

}  // namespace
}  // namespace cvxq
