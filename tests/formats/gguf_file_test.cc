#include "formats/gguf_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "formats/gguf_writer.h"
#include "tensor/dtype.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

const std::string kData = std::string(CVXQ_SOURCE_DIR) + "/tests/data/";

constexpr uint32_t kF32 = 0, kF16 = 1, kQ8_0 = 8;

// What make_gguf_golden.py wrote.
GgufMetadata SmallMetadata() {
  GgufMetadata metadata;
  metadata.String("general.architecture", "llama");
  metadata.U32("llama.block_count", 2);
  metadata.F32("llama.rope.freq_base", 10000.5f);
  metadata.Bool("tokenizer.ggml.add_bos_token", true);
  metadata.U16("split.no", 1);
  metadata.I32("split.tensors.count", -3);
  metadata.String("name", "na\xc3\xafve \xe2\x96\x81");
  metadata.Strings("tokenizer.ggml.tokens", {"<s>", "", "\xe2\x96\x81the"});
  metadata.I32s("tokenizer.ggml.token_type", {3, 1, 5});
  metadata.F32s("tokenizer.ggml.scores", {0.0f, -1.5f, 2.25f});
  return metadata;
}

TEST(GgufWriterTest, MakesTheBytesOfThePackageGguf) {
  const std::string golden = Slurp(kData + "small.gguf");
  const auto reference = GgufFile::Parse(AsBytes(golden), "small.gguf");
  ASSERT_TRUE(reference.ok()) << reference.status();
  const std::vector<GgufEntry> entries = {{"token_embd.weight", {3, 32}, kF32},
                                          {"blk.0.attn_norm.weight", {5}, kF32},
                                          {"blk.0.attn_q.weight", {3, 32}, kF16},
                                          {"output.weight", {3, 32}, kQ8_0}};
  const TempFolder folder;
  const GgufMetadata metadata = SmallMetadata();
  EXPECT_EQ(GgufFileSize(static_cast<int64_t>(metadata.bytes().size()), entries),
            static_cast<int64_t>(golden.size()));
  auto writer = GgufWriter::Create(folder.File("a.gguf"), metadata, entries);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const GgufEntry& entry : entries) {
    const std::span<const std::byte> bytes = (*reference)->FindTensor(entry.name)->bytes;
    EXPECT_TRUE((*writer)->Append(bytes.subspan(0, 7)).ok());
    EXPECT_TRUE((*writer)->Append(bytes.subspan(7)).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(Slurp(folder.File("a.gguf")), golden);
}

TEST(GgufFileTest, ReadsValuesAndTensors) {
  const auto opened = GgufFile::Open(kData + "small.gguf");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(file.Find("llama.block_count")->Integer(), 2);
  EXPECT_EQ(file.Find("split.tensors.count")->Integer(), -3);
  EXPECT_EQ(file.Find("llama.rope.freq_base")->Float(), 10000.5);
  EXPECT_EQ(file.Find("tokenizer.ggml.add_bos_token")->Bool(), true);
  EXPECT_EQ(file.Find("name")->String(), "na\xc3\xafve \xe2\x96\x81");
  const std::vector<std::string_view> tokens = {"<s>", "", "\xe2\x96\x81the"};
  EXPECT_EQ(file.Find("tokenizer.ggml.tokens")->Strings(), tokens);
  const std::vector<int64_t> types = {3, 1, 5};
  EXPECT_EQ(file.Find("tokenizer.ggml.token_type")->Integers(), types);
  const std::vector<double> scores = {0, -1.5, 2.25};
  EXPECT_EQ(file.Find("tokenizer.ggml.scores")->Floats(), scores);
  // A value asked for as another kind is none.
  EXPECT_FALSE(file.Find("name")->Integer() || file.Find("name")->Strings());
  EXPECT_FALSE(file.Find("llama.block_count")->Float() || file.Find("llama.block_count")->Bool());
  EXPECT_FALSE(file.Find("tokenizer.ggml.tokens")->Integers());
  EXPECT_EQ(file.Find("absent"), nullptr);

  const GgufTensor& tensor = *file.FindTensor("blk.0.attn_q.weight");
  EXPECT_EQ(tensor.shape, (Shape{3, 32}));
  EXPECT_EQ(tensor.type, kF16);
  uint16_t last;
  std::memcpy(&last, &tensor.bytes[2 * 95], 2);
  EXPECT_EQ(F16ToFloat(last), 95.0f / 8 - 5);
}

TEST(GgufFileTest, RefusesWhatLies) {
  int right = 0, wrong = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kData + "hostile/gguf")) {
    const std::string name = entry.path().filename().string(), bytes = Slurp(entry.path());
    const Status status = GgufFile::Parse(AsBytes(bytes), "some/" + name).status();
    if (name.starts_with("ok_")) {
      EXPECT_TRUE(status.ok()) << name << ": " << status;
      ++right;
      continue;
    }
    SCOPED_TRACE(name);
    ExpectError(status, absl::StatusCode::kDataLoss, "cannot use some/" + name + ": ");
    ++wrong;
  }
  EXPECT_GE(right, 5);
  EXPECT_GE(wrong, 50);
}

TEST(GgufFileTest, RefusesWhatIsNoFile) {
  const TempFolder folder;
  ExpectError(GgufFile::Open(folder.File("none.gguf")).status(), absl::StatusCode::kNotFound,
              "none.gguf");
  ExpectError(GgufFile::Open(folder.path()).status(), absl::StatusCode::kFailedPrecondition,
              "no regular file");
}

TEST(GgufWriterTest, RefusesWhatNoReaderTakes) {
  const TempFolder folder;
  const auto create = [&](const std::vector<GgufEntry>& entries) {
    return GgufWriter::Create(folder.File("a.gguf"), {}, entries).status();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectError(create({{std::string(64, 'n'), {4}, kF32}}), kInvalid,
              "a name of 64 bytes; llama.cpp takes 63: export the model as compressed-tensors");
  ExpectError(create({{"a", {4}, kF32}, {"a", {4}, kF32}}), kInvalid, "declared twice");
  ExpectError(create({{"a", {3, 48}, kQ8_0}}), kInvalid, "do not divide");
  ExpectError(create({{"a", {4}, 99}}), kInvalid, "do not divide");
  EXPECT_EQ(folder.Count(), 0);

  // More and fewer bytes than declared.
  auto writer = GgufWriter::Create(folder.File("a.gguf"), {}, {{"a", {4}, kF32}});
  ASSERT_TRUE(writer.ok());
  const std::vector<std::byte> bytes(17);
  EXPECT_EQ((*writer)->Append(bytes).code(), absl::StatusCode::kInternal);
  EXPECT_EQ((*writer)->Finish().code(), absl::StatusCode::kInternal);
  writer->reset();
  EXPECT_EQ(folder.Count(), 0);
}

// Files of a set, each with one tensor of four floats.
class SplitTest : public testing::Test {
 protected:
  std::string Name(int index, int count = 3) {
    return folder_.File(GgufFileName("m", index, count));
  }
  void Write(const std::string& path, int index, int count, int tensors, const std::string& name) {
    GgufMetadata metadata;
    if (index == 0) metadata.String("general.architecture", "llama");
    metadata.U16("split.no", static_cast<uint16_t>(index));
    metadata.U16("split.count", static_cast<uint16_t>(count));
    metadata.I32("split.tensors.count", tensors);
    auto writer = GgufWriter::Create(path, metadata, {{name, {4}, kF32}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::vector<float> values(4, static_cast<float>(index));
    ASSERT_TRUE((*writer)->Append(std::as_bytes(std::span(values))).ok());
    ASSERT_TRUE((*writer)->Finish().ok());
  }
  void WriteAll() {
    for (int i = 0; i < 3; ++i) Write(Name(i), i, 3, 3, "t" + std::to_string(i));
  }
  void Expect(absl::StatusCode code, const std::string& part, int first = 0) {
    ExpectError(GgufFile::Open(Name(first)).status(), code, part);
  }

  TempFolder folder_;
};

TEST_F(SplitTest, OpensTheSetByAnyOfItsFiles) {
  WriteAll();
  for (int i = 0; i < 3; ++i) {
    const auto file = GgufFile::Open(Name(i));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->tensors().size(), 3u);
    EXPECT_EQ((*file)->Find("general.architecture")->String(), "llama");
    float value;
    std::memcpy(&value, (*file)->FindTensor("t2")->bytes.data(), sizeof(value));
    EXPECT_EQ(value, 2);
    EXPECT_EQ((*file)->file_bytes(), static_cast<int64_t>(std::filesystem::file_size(Name(0)) +
                                                          std::filesystem::file_size(Name(1)) +
                                                          std::filesystem::file_size(Name(2))));
  }
}

TEST_F(SplitTest, RefusesSetsThatAreNotWhole) {
  WriteAll();
  std::filesystem::remove(Name(1));
  Expect(absl::StatusCode::kNotFound, "m-00002-of-00003.gguf of the set is missing");
  Expect(absl::StatusCode::kNotFound, "m-00002-of-00003.gguf of the set is missing", 2);
  Write(Name(1), 2, 3, 3, "t1");
  Expect(absl::StatusCode::kDataLoss, "it is no part 2 of 3");
  Write(Name(1), 1, 4, 3, "t1");
  Expect(absl::StatusCode::kDataLoss, "it is no part 2 of 3");
  Write(Name(1), 1, 3, 3, "t0");
  Expect(absl::StatusCode::kDataLoss, "\"t0\" is in another file of the set");
  Write(Name(1), 1, 3, 3, "t1");
  Write(Name(0), 0, 3, 4, "t0");
  Expect(absl::StatusCode::kDataLoss, "not as many as split.tensors.count says");
  Put(Name(1), "GGUF");
  Expect(absl::StatusCode::kDataLoss, "m-00002-of-00003.gguf: ");
  Write(folder_.File("other.gguf"), 0, 3, 3, "t0");
  ExpectError(GgufFile::Open(folder_.File("other.gguf")).status(), absl::StatusCode::kDataLoss,
              "which its name does not say");
}

}  // namespace
}  // namespace cvxq
