// Reading safetensors: what is right is read, what lies is refused with one clear line.
#include "storage/safetensors.h"

#include <unistd.h>

#include <cstring>

#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

StatusOr<std::shared_ptr<const SafetensorsFile>> ParseText(const std::string& file) {
  return SafetensorsFile::Parse(AsBytes(file), "bad.safetensors");
}

TEST(SafetensorsFile, ReadsTensorsInAnyOrderAndAlignment) {
  const std::string header = R"({"b":{"dtype":"F32","shape":[],"data_offsets":[3,7]},)"
                             R"("__metadata__":{"format":"pt"},)"
                             R"("a":{"data_offsets":[0,3],"shape":[3],"dtype":"U8"},)"
                             R"("none":{"dtype":"I64","shape":[0,5],"data_offsets":[3,3]},)"
                             R"("last":{"dtype":"BF16","shape":[1,2],"data_offsets":[7,11]}}   )";
  const std::string bytes = Safetensors(header, 11);
  const auto file = ParseText(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 4u);
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_EQ((*file)->data_bytes(), 11);
  const HostTensor* b = (*file)->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::kF32);
  EXPECT_EQ(b->shape.rank(), 0);
  EXPECT_EQ(b->bytes(), 4);
  EXPECT_EQ(static_cast<int>(b->data[0]), 4);
  EXPECT_EQ((*file)->Find("none")->bytes(), 0);
  EXPECT_EQ((*file)->Find("last")->shape, Shape({1, 2}));
  EXPECT_EQ((*file)->Find("c"), nullptr);
}

TEST(SafetensorsFile, AcceptsAFileWithoutTensors) {
  const std::string bytes = Safetensors("{}", 0);
  const auto file = ParseText(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->tensors().empty());
}

TEST(SafetensorsFile, SetsOtherTypesAside) {
  const std::string bytes =
      Safetensors(R"({"x":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]},)"
                  R"("y":{"dtype":"F4","shape":[2,2],"data_offsets":[4,6]},)"
                  R"("z":{"dtype":"U8","shape":[1],"data_offsets":[6,7]}})",
                  7);
  const auto file = ParseText(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("x"), nullptr);
  EXPECT_EQ((*file)->unsupported().at("x"), "F8_E5M2");
  EXPECT_EQ((*file)->unsupported().at("y"), "F4");
  EXPECT_EQ(static_cast<int>((*file)->Find("z")->data[0]), 7);
}

TEST(SafetensorsFile, RefusesBadSizes) {
  const auto refuse = [](const std::string& bytes, const std::string& part) {
    const auto file = ParseText(bytes);
    ExpectError(file.status(), absl::StatusCode::kDataLoss, part);
    ExpectError(file.status(), absl::StatusCode::kDataLoss, "bad.safetensors");
  };
  refuse("", "has 0 bytes");
  refuse("1234567", "has 7 bytes");
  const std::string good =
      Safetensors(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3);
  ASSERT_TRUE(ParseText(good).ok());
  refuse(good.substr(0, good.size() - 1), "cut short");
  refuse(good.substr(0, 30), "beyond the end");
  refuse(good + "x", "the last 1 bytes belong to no tensor");
  refuse(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), "100000001 bytes, more than");
  refuse(std::string(8, '\xff') + "{}", "18446744073709551615 bytes, more than");
  refuse(std::string(8, '\0'), "does not begin with {");
}

// Each header comes with the data that would fit it, so that only one thing is wrong.
TEST(SafetensorsFile, RefusesBadHeaders) {
  struct Case {
    std::string header;
    size_t data_bytes;
    std::string part;
  };
  const auto one = [](const std::string& fields) { return "{\"a\":{" + fields + "}}"; };
  const std::string deep(100000, '[');
  std::string deep_object;
  for (int i = 0; i < 50000; ++i) deep_object += "{\"a\":";
  const std::vector<Case> cases = {
      // Not JSON, or not in UTF-8.
      {" {}", 0, "does not begin with {"},
      {"\xef\xbb\xbf{}", 0, "does not begin with {"},
      {"[]", 0, "does not begin with {"},
      {"{", 0, "no valid JSON"},
      {"{}x", 0, "no valid JSON"},
      {"{}{}", 0, "no valid JSON"},
      {"{/**/}", 0, "no valid JSON"},
      {"{'a':1}", 0, "no valid JSON"},
      {std::string("{}\0x", 4), 0, "zero byte at its byte 2"},
      {"{\"\xff\xfe\":{}}", 0, "no valid JSON in UTF-8"},
      {"{\"\\ud800\":{}}", 0, "no valid JSON in UTF-8"},
      // Another structure.
      {R"({"a":1})", 0, "\"a\" is a number, not an object"},
      {R"({"a":null})", 0, "\"a\" is null"},
      {R"({"a":true})", 0, "\"a\" is true or false"},
      {R"({"a":"U8"})", 0, "\"a\" is a string"},
      {R"({"a":[]})", 0, "\"a\" is a list"},
      {"{\"a\":" + deep, 0, "\"a\" is a list"},
      {deep_object, 0, "unknown field \"a\""},
      {R"({"__metadata__":null})", 0, "not an object"},
      {R"({"__metadata__":{"a":1}})", 0, "not a string"},
      {R"({"__metadata__":{"a":{}}})", 0, "not a string"},
      {R"({"__metadata__":{"a":["b"]}})", 0, "not a string"},
      {one(R"("dtype":"U8","shape":[3])"), 3, "lacks one of"},
      {one(R"("dtype":"U8","data_offsets":[0,3])"), 3, "lacks one of"},
      {one(R"("shape":[3],"data_offsets":[0,3])"), 3, "lacks one of"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[0,3],"x":1)"), 3, "unknown field \"x\""},
      {one(R"("dtype":8,"shape":[3],"data_offsets":[0,3])"), 3, "a number in its dtype"},
      {one(R"("dtype":"U8","shape":3,"data_offsets":[0,3])"), 3, "a number in its shape"},
      {one(R"("dtype":"U8","shape":"3","data_offsets":[0,3])"), 3, "a string in its shape"},
      {one(R"("dtype":"U8","shape":[[3]],"data_offsets":[0,3])"), 3, "a list in its shape"},
      {one(R"("dtype":"U8","shape":[{}],"data_offsets":[0,3])"), 3, "an object in its shape"},
      {one(R"("dtype":"U8","shape":["3"],"data_offsets":[0,3])"), 3, "a string in its shape"},
      {one(R"("dtype":["U8"],"shape":[3],"data_offsets":[0,3])"), 3, "a list in its dtype"},
      {one("\"dtype\":\"U8\",\"shape\":" + deep), 3, "a list in its shape"},
      // Twice.
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
       3, "\"a\" comes twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "\"__metadata__\" comes twice"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "\"k\" comes twice"},
      {one(R"("dtype":"U8","dtype":"U8","shape":[3],"data_offsets":[0,3])"), 3, "has twice"},
      // Numbers.
      {one(R"("dtype":"U8","shape":[-3],"data_offsets":[0,3])"), 3,
       "a negative number in its shape"},
      {one(R"("dtype":"U8","shape":[3.0],"data_offsets":[0,3])"), 3, "a fractional or too large"},
      {one(R"("dtype":"U8","shape":[3e0],"data_offsets":[0,3])"), 3, "a fractional or too large"},
      {one(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,3])"), 3, "too large"},
      {one(R"("dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,3])"), 3, "too large"},
      {one(R"("dtype":"U8","shape":[1e999],"data_offsets":[0,3])"), 3, "no valid JSON"},
      {one(R"("dtype":"U8","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0])"), 0,
       "no possible number of bytes"},
      {one(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), 0,
       "no possible number of bytes"},
      {one(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2, "no possible number of bytes"},
      // Types.
      {one(R"("dtype":"Q7","shape":[3],"data_offsets":[0,3])"), 3, "unknown type \"Q7\""},
      {one(R"("dtype":"u8","shape":[3],"data_offsets":[0,3])"), 3, "unknown type \"u8\""},
      {one(R"("dtype":"F8_E4M3","shape":[3],"data_offsets":[0,4])"), 4, "needs 3 bytes"},
      // Offsets.
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[0])"), 3, "no pair of data_offsets"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[0,3,3])"), 3, "no pair of data_offsets"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[])"), 3, "no pair of data_offsets"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[3,0])"), 3, "before it begins"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[0,-3])"), 3, "a negative number"},
      {one(R"("dtype":"F32","shape":[3],"data_offsets":[0,3])"), 3, "needs 12 bytes"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[0,4])"), 4, "needs 3 bytes"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[1,4])"), 4, "1 bytes before tensor \"a\""},
      {one(R"("dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807])"),
       1, "belong to no tensor"},
      {one(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"), 3, "cut short"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})",
       5, "\"b\" overlaps"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
       3, "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}})",
       7, "1 bytes before tensor \"b\""},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       3, "overlaps"},
      {"{}", 1, "the last 1 bytes"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header.substr(0, 100));
    const std::string bytes = Safetensors(c.header, c.data_bytes);
    ExpectError(ParseText(bytes).status(), absl::StatusCode::kDataLoss, c.part);
  }
}

TEST(SafetensorsFile, PrintsHostileNamesOnOneLine) {
  const std::string name = "\\n\\u001b[31m\\u0000" + std::string(5000, 'x');
  const std::string bytes = Safetensors("{\"" + name + "\":1}", 0);
  ExpectError(ParseText(bytes).status(), absl::StatusCode::kDataLoss, "\"\\n\\x1b[31m\\x00xxx");
}

// The folder is also what the fuzz target starts from: every file but ok_* must be refused.
TEST(SafetensorsFile, RefusesTheFolderOfHostileFiles) {
  int good = 0, bad = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(CVXQ_SOURCE_DIR "/tests/data/hostile/safetensors")) {
    const std::string path = entry.path().string();
    SCOPED_TRACE(path);
    const auto file = SafetensorsFile::Open(path);
    if (entry.path().filename().string().starts_with("ok_")) {
      EXPECT_TRUE(file.ok()) << file.status();
      ++good;
    } else {
      ExpectError(file.status(), absl::StatusCode::kDataLoss, path);
      ++bad;
    }
  }
  EXPECT_GE(good, 3);
  EXPECT_GE(bad, 30);
}

TEST(SafetensorsFile, OpenNamesWhatItCannotRead) {
  const TempFolder folder;
  ExpectError(SafetensorsFile::Open(folder.File("none")).status(), absl::StatusCode::kNotFound,
              folder.File("none"));
  ExpectError(SafetensorsFile::Open(folder.path()).status(), absl::StatusCode::kFailedPrecondition,
              "no regular file");
  Put(folder.File("empty"), "");
  ExpectError(SafetensorsFile::Open(folder.File("empty")).status(), absl::StatusCode::kDataLoss,
              "has 0 bytes");
}

TEST(SafetensorsFile, ReleasedPagesComeBack) {
  const TempFolder folder;
  const std::string header = R"({"a":{"dtype":"U8","shape":[9999],"data_offsets":[0,9999]},)"
                             R"("b":{"dtype":"U8","shape":[9999],"data_offsets":[9999,19998]}})";
  const std::string bytes = Safetensors(header, 19998);
  Put(folder.File("x"), bytes);
  const auto file = SafetensorsFile::Open(folder.File("x"));
  ASSERT_TRUE(file.ok()) << file.status();
  const HostTensor* a = (*file)->Find("a");
  (*file)->Release("a");
  EXPECT_EQ(std::memcmp(a->data, bytes.data() + 8 + header.size(), 9999), 0);
  // Bytes that are not mapped are left alone: dropping pages of the heap would zero them.
  const std::string copy = bytes;
  const auto parsed = ParseText(copy);
  ASSERT_TRUE(parsed.ok());
  (*parsed)->Release("b");
  EXPECT_EQ(copy, bytes);
}

}  // namespace
}  // namespace cvxq
