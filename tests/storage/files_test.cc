// Whole reads, safe writes and digests.
#include "storage/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "storage/atomic_file.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

TEST(ReadFile, ReadsAllBytes) {
  const TempFolder folder;
  std::string bytes(3'000'001, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i >> 7);
  Put(folder.File("x"), bytes);
  const auto read = ReadFile(folder.File("x"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(*read == bytes);
  Put(folder.File("empty"), "");
  EXPECT_EQ(*ReadFile(folder.File("empty")), "");
}

TEST(ReadFile, ReadsAPipe) {
  const TempFolder folder;
  ASSERT_EQ(mkfifo(folder.File("pipe").c_str(), 0600), 0);
  std::thread writer([&] { Put(folder.File("pipe"), "through"); });
  const auto read = ReadFile(folder.File("pipe"));
  writer.join();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, "through");
}

TEST(ReadFile, NamesWhatItCannotRead) {
  const TempFolder folder;
  ExpectError(ReadFile(folder.File("none")).status(), absl::StatusCode::kNotFound,
              folder.File("none") + ": No such file");
  ExpectError(ReadFile(folder.path()).status(), absl::StatusCode::kFailedPrecondition, "a folder");
  ExpectError(ReadFile("/dev/zero").status(), absl::StatusCode::kFailedPrecondition, "/dev/zero");
  // A file of 5 GiB that holds nothing but a hole.
  Put(folder.File("huge"), "");
  ASSERT_EQ(truncate(folder.File("huge").c_str(), int64_t{5} << 30), 0);
  ExpectError(ReadFile(folder.File("huge")).status(), absl::StatusCode::kResourceExhausted,
              folder.File("huge"));
}

TEST(WriteFile, ReplacesTheWholeFile) {
  const TempFolder folder;
  for (const std::string& contents : {std::string(100000, 'a'), std::string("b"), std::string()}) {
    const Status status = WriteFile(folder.File("x"), contents);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Slurp(folder.File("x")), contents);
    EXPECT_EQ(folder.Count(), 1);
  }
}

TEST(WriteFile, TakesAwayWhatAKilledProcessLeft) {
  const TempFolder folder;
  Put(absl::StrCat(folder.File("x"), ".partial-", getpid()), "rubbish");
  ASSERT_TRUE(WriteFile(folder.File("x"), "good").ok());
  EXPECT_EQ(Slurp(folder.File("x")), "good");
  EXPECT_EQ(folder.Count(), 1);
}

TEST(WriteFile, NamesWhatItCannotWrite) {
  const TempFolder folder;
  ExpectError(WriteFile(folder.File("no/x"), "a"), absl::StatusCode::kNotFound,
              folder.File("no/x"));
  ExpectError(WriteFile(folder.path(), "a"), absl::StatusCode::kFailedPrecondition, folder.path());
  // A pipe or a device must not be replaced by a file. (A pipe here, since a failing test would
  // replace the machine's own device.)
  ASSERT_EQ(mkfifo(folder.File("pipe").c_str(), 0600), 0);
  ExpectError(WriteFile(folder.File("pipe"), "a"), absl::StatusCode::kFailedPrecondition,
              folder.File("pipe"));
  EXPECT_TRUE(std::filesystem::is_fifo(folder.File("pipe")));
  EXPECT_EQ(folder.Count(), 1);
}

TEST(AtomicFile, GoesAwayUnlessCommitted) {
  const TempFolder folder;
  {
    auto file = AtomicFile::Create(folder.File("x"));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Write("half").ok());
    EXPECT_EQ(folder.Count(), 1);
    EXPECT_FALSE(std::filesystem::exists(folder.File("x")));
  }
  EXPECT_EQ(folder.Count(), 0);
}

TEST(WriteAll, TellsOfAFullDisk) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  const Status status = WriteAll(full, "bytes", "OUT/model.safetensors");
  close(full);
  ExpectError(status, absl::StatusCode::kResourceExhausted,
              "cannot write OUT/model.safetensors: No space left on device; free some space");
}

TEST(FileSha256, MatchesPublishedDigests) {
  const TempFolder folder;
  // The one-block, two-block and million-byte messages of FIPS 180-2, appendix B, and nothing.
  const std::pair<std::string, std::string> cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [message, digest] : cases) {
    Put(folder.File("x"), message);
    const auto computed = FileSha256(folder.File("x"));
    ASSERT_TRUE(computed.ok()) << computed.status();
    EXPECT_EQ(*computed, digest);
  }
  ExpectError(FileSha256(folder.File("none")).status(), absl::StatusCode::kNotFound,
              folder.File("none"));
}

}  // namespace
}  // namespace cvxq
