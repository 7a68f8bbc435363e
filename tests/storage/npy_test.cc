#include "storage/npy.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

// Made by tests/data/make_hostile_npy.py.
std::string File(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR "/tests/data/hostile/npy/") + name + ".npy";
}

template <typename T>
std::vector<int64_t> Elements(const HostTensor& array) {
  std::vector<T> values(static_cast<size_t>(array.shape.elements()));
  std::memcpy(values.data(), array.data, values.size() * sizeof(T));
  return {values.begin(), values.end()};
}

TEST(NpyFile, ReadsEveryTypeAndVersion) {
  const std::vector<int64_t> kIds = {5, 6, 7};
  for (const char* name : {"good_i4_v1", "good_i4_v2", "good_i4_v3", "good_tight_header"}) {
    const auto file = NpyFile::Open(File(name));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->array().dtype, DType::kI32);
    EXPECT_EQ((*file)->array().shape, Shape({3}));
    EXPECT_EQ(Elements<int32_t>((*file)->array()), kIds);
  }
  const auto i8 = NpyFile::Open(File("good_i8"));
  ASSERT_TRUE(i8.ok()) << i8.status();
  EXPECT_EQ((*i8)->array().dtype, DType::kI64);
  EXPECT_EQ(Elements<int64_t>((*i8)->array()), kIds);
  const auto u2 = NpyFile::Open(File("good_u2"));
  ASSERT_TRUE(u2.ok()) << u2.status();
  EXPECT_EQ((*u2)->array().dtype, DType::kU16);
  EXPECT_EQ(Elements<uint16_t>((*u2)->array()), kIds);
  const auto u4 = NpyFile::Open(File("good_u4_two_axes"));
  ASSERT_TRUE(u4.ok()) << u4.status();
  EXPECT_EQ((*u4)->array().dtype, DType::kU32);
  EXPECT_EQ((*u4)->array().shape, Shape({1, 3}));
  EXPECT_EQ(Elements<uint32_t>((*u4)->array()), kIds);
  const auto none = NpyFile::Open(File("good_no_rows"));
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ((*none)->array().shape, Shape({0, 3}));
}

TEST(NpyFile, RefusesEveryHostileFile) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(CVXQ_SOURCE_DIR "/tests/data/hostile/npy")) {
    const std::string path = entry.path().string();
    if (entry.path().filename().string().starts_with("good_")) continue;
    ++files;
    const auto file = NpyFile::Open(path);
    ASSERT_FALSE(file.ok()) << path;
    const std::string message(file.status().message());
    EXPECT_THAT(message, HasSubstr(path));
    for (char c : message) EXPECT_TRUE(c >= ' ' && c != '\x7f') << message;
  }
  EXPECT_GE(files, 40);
}

TEST(NpyFile, TellsWhatIsUnsupportedFromWhatIsBroken) {
  const struct {
    const char* name;
    absl::StatusCode code;
    const char* message;
  } kCases[] = {
      {"type_float", absl::StatusCode::kUnimplemented,
       "type \"<f4\"; save token ids as little-endian"},
      {"type_records", absl::StatusCode::kUnimplemented, "records"},
      {"order_fortran", absl::StatusCode::kUnimplemented, "C order"},
      {"shape_three_axes", absl::StatusCode::kUnimplemented, "more than two axes"},
      {"shape_too_large", absl::StatusCode::kDataLoss, "[4] needs 16 bytes, but 12 follow"},
      {"header_4_gib", absl::StatusCode::kDataLoss, "its header has 4294967295 bytes"},
      {"shape_overflow", absl::StatusCode::kDataLoss, "too many elements"},
      {"key_twice", absl::StatusCode::kDataLoss, "comes twice"},
  };
  for (const auto& c : kCases) {
    const Status status = NpyFile::Open(File(c.name)).status();
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(NpyFile, RefusesEveryPrefixOfAGoodFile) {
  std::ifstream stream(File("good_i4_v2"), std::ios::binary);
  const std::string contents{std::istreambuf_iterator<char>(stream), {}};
  const auto bytes = std::as_bytes(std::span(contents));
  ASSERT_TRUE(NpyFile::Parse(bytes, "memory").ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(NpyFile::Parse(bytes.first(size), "memory").status())) << size;
  }
}

TEST(NpyFile, NamesWhatIsNotAFile) {
  EXPECT_TRUE(absl::IsNotFound(NpyFile::Open("/nonexistent/ids.npy").status()));
  EXPECT_EQ(NpyFile::Open(CVXQ_SOURCE_DIR).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace cvxq
