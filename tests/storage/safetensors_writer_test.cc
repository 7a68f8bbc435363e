// Writing safetensors: what is written is read back; a full disk is told and leaves nothing.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>

#include "storage/safetensors.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

// Caps the size of files that this process writes, which fails like a full disk; undone at the end.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_;
  void (*handler_)(int);
};

const std::vector<TensorEntry> kEntries = {{"w\"eight\n", DType::kF32, {2, 3}},
                                           {"z\xc3\xa9ro", DType::kI64, {0, 7}},
                                           {"scalar", DType::kBF16, {}},
                                           {"codes", DType::kU8, {5}}};
const std::map<std::string, std::string> kMetadata = {{"format", "pt"}, {"note", "a\\b\t\"c\""}};

TEST(SafetensorsWriter, RoundTrip) {
  const TempFolder folder;
  const std::string path = folder.File("out.safetensors");
  std::string data;
  for (int i = 0; i < 24 + 2 + 5; ++i) data += static_cast<char>(i * 7);
  auto writer = SafetensorsWriter::Create(path, kEntries, kMetadata);
  ASSERT_TRUE(writer.ok()) << writer.status();
  // The pieces need not respect the tensors' bounds.
  ASSERT_TRUE((*writer)->Append(AsBytes(data).subspan(0, 10)).ok());
  ASSERT_TRUE((*writer)->Append({}).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE((*writer)->Append(AsBytes(data).subspan(10)).ok());
  const Status finished = (*writer)->Finish();
  ASSERT_TRUE(finished.ok()) << finished;
  writer->reset();
  EXPECT_EQ(folder.Count(), 1);

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata(), kMetadata);
  ASSERT_EQ((*file)->tensors().size(), kEntries.size());
  size_t offset = 0;
  for (const TensorEntry& entry : kEntries) {
    const HostTensor* tensor = (*file)->Find(entry.name);
    ASSERT_NE(tensor, nullptr) << entry.name;
    EXPECT_EQ(tensor->dtype, entry.dtype);
    EXPECT_EQ(tensor->shape, entry.shape);
    EXPECT_EQ(std::memcmp(tensor->data, data.data() + offset, tensor->bytes()), 0) << entry.name;
    offset += tensor->bytes();
  }
  const std::string bytes = Slurp(path);
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), SafetensorsFileSize(kEntries, kMetadata));
  EXPECT_EQ((bytes.size() - data.size()) % 64, 0u);
}

TEST(SafetensorsWriter, FixesEveryByte) {
  const TempFolder folder;
  auto writer = SafetensorsWriter::Create(folder.File("x"), {{"a", DType::kU8, {2}}}, {{"k", "v"}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(AsBytes("hi")).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  header.resize(120, ' ');
  EXPECT_EQ(Slurp(folder.File("x")), Safetensors(header, 0) + "hi");
}

TEST(SafetensorsWriter, LeavesNothingUnlessAllBytesCame) {
  const TempFolder folder;
  Put(folder.File("x"), "old");
  {
    auto writer = SafetensorsWriter::Create(folder.File("x"), {{"a", DType::kU8, {3}}}, {});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append(AsBytes("ab")).ok());
    ExpectError((*writer)->Append(AsBytes("cd")), absl::StatusCode::kInternal, folder.File("x"));
    ExpectError((*writer)->Finish(), absl::StatusCode::kInternal, "only 2 of 3 bytes");
  }
  EXPECT_EQ(folder.Count(), 1);
  EXPECT_EQ(Slurp(folder.File("x")), "old");
}

TEST(SafetensorsWriter, RefusesImpossibleEntries) {
  const TempFolder folder;
  const auto refuse = [&](std::vector<TensorEntry> entries, const std::string& part,
                          const std::map<std::string, std::string>& metadata = {}) {
    ExpectError(SafetensorsWriter::Create(folder.File("x"), std::move(entries), metadata).status(),
                absl::StatusCode::kInvalidArgument, part);
  };
  refuse({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}, "declared twice");
  refuse({{"__metadata__", DType::kU8, {1}}}, "cannot be a tensor's name");
  refuse({{"\xff", DType::kU8, {1}}}, "no valid UTF-8");
  refuse({{"a", DType::kU8, {-1}}}, "negative extent");
  refuse({{"a", DType::kU8, {int64_t{1} << 40, int64_t{1} << 40}}}, "too large");
  refuse({{"a", DType::kF64, {int64_t{1} << 61}}}, "too large");
  refuse({{"a", DType::kU8, {int64_t{1} << 62}}, {"b", DType::kU8, {int64_t{1} << 62}}},
         "too large");
  refuse({}, "no valid UTF-8", {{"k", "\xc3"}});
  EXPECT_EQ(folder.Count(), 0);
}

TEST(SafetensorsWriter, TellsOfAFullDiskAndLeavesNothing) {
  const TempFolder folder;
  const std::string path = folder.File("big.safetensors");
  const std::string data(100000, 'x');
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", DType::kU8, {100000}}}, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    Status first, second;
    {
      // The first write comes short, its rest fails.
      const FileSizeLimit limit(50000);
      first = (*writer)->Append(AsBytes(data));
    }
    ExpectError(first, absl::StatusCode::kResourceExhausted, path);
    // The error sticks: a hole in the data must not be published.
    second = (*writer)->Append(AsBytes(data));
    EXPECT_EQ(second, first);
    EXPECT_FALSE((*writer)->Finish().ok());
  }
  EXPECT_EQ(folder.Count(), 0);
  Status status;
  {
    const FileSizeLimit limit(10);
    status = SafetensorsWriter::Create(path, {{"a", DType::kU8, {100000}}}, {}).status();
  }
  ExpectError(status, absl::StatusCode::kResourceExhausted, path);
  EXPECT_EQ(folder.Count(), 0);
}

}  // namespace
}  // namespace cvxq
