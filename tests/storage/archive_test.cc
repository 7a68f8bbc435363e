// Archives: what is written comes back, and nothing else is believed.
#include "storage/archive.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/files.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

class ArchiveTest : public testing::Test {
 protected:
  ArchiveTest() : store_(*OpenObjectStore(folder_.path())) {}

  void Write() {
    ArchiveWriter writer(*store_->Create("a", 0));
    ASSERT_TRUE(writer.Put(std::vector<float>{1.5f, -2}).ok());
    ASSERT_TRUE(writer.Put(int64_t{42}).ok());
    ASSERT_TRUE(writer.Put(std::vector<uint8_t>()).ok());
    ASSERT_TRUE(writer.Put(large_).ok());
    ASSERT_TRUE(writer.Put(std::vector<int32_t>{7}).ok());
    ASSERT_TRUE(writer.Commit().ok());
  }
  Status Read() {
    std::vector<float> floats;
    int64_t number = 0;
    std::vector<uint8_t> nothing;
    std::vector<double> large;
    std::vector<int32_t> last;
    CVXQ_ASSIGN_OR_RETURN(const auto reader, ArchiveReader::Open(*store_, "a"));
    CVXQ_RETURN_IF_ERROR(reader->Get(floats));
    CVXQ_RETURN_IF_ERROR(reader->Get(number));
    CVXQ_RETURN_IF_ERROR(reader->Get(nothing));
    CVXQ_RETURN_IF_ERROR(reader->Get(large));
    CVXQ_RETURN_IF_ERROR(reader->GetExactly(last, 1));
    CVXQ_RETURN_IF_ERROR(reader->Finish());
    EXPECT_EQ(floats, (std::vector<float>{1.5f, -2}));
    EXPECT_EQ(number, 42);
    EXPECT_TRUE(nothing.empty());
    EXPECT_EQ(large, large_);
    EXPECT_EQ(last, std::vector<int32_t>{7});
    return absl::OkStatus();
  }
  std::string Path() const { return folder_.path() + "/a"; }

  TempFolder folder_;
  const std::unique_ptr<ObjectStore> store_;
  std::vector<double> large_ = std::vector<double>(1'000, 3);
};

TEST_F(ArchiveTest, GivesBackWhatWasPut) {
  for (const size_t size : {0, 1'000, 700'000, 3'000'000}) {  // below and beyond all buffers
    large_.assign(size, 0.25);
    ASSERT_NO_FATAL_FAILURE(Write());
    EXPECT_TRUE(Read().ok()) << Read() << " " << size;
  }
}

TEST_F(ArchiveTest, NothingIsThereBeforeCommit) {
  {
    ArchiveWriter writer(*store_->Create("a", 0));
    ASSERT_TRUE(writer.Put(large_).ok());
  }
  EXPECT_TRUE(absl::IsNotFound(Read()));
}

TEST_F(ArchiveTest, EveryCutAndEveryFlippedByteIsNoticed) {
  large_.assign(20, 1);
  ASSERT_NO_FATAL_FAILURE(Write());
  const std::string whole = *ReadFile(Path());
  for (size_t i = 0; i < whole.size(); ++i) {
    std::ofstream(Path(), std::ios::binary) << whole.substr(0, i);
    EXPECT_TRUE(absl::IsDataLoss(Read())) << i << " " << Read();
    std::string flipped = whole;
    flipped[i] ^= 16;
    std::ofstream(Path(), std::ios::binary) << flipped;
    EXPECT_TRUE(absl::IsDataLoss(Read())) << i << " " << Read();
  }
  std::ofstream(Path(), std::ios::binary) << whole << "x";
  EXPECT_THAT(std::string(Read().message()), HasSubstr("something follows"));
}

TEST_F(ArchiveTest, OtherTypesThanWereWrittenAreRefused) {
  ASSERT_NO_FATAL_FAILURE(Write());
  const auto reader = *ArchiveReader::Open(*store_, "a");
  std::vector<std::array<char, 3>> threes;
  EXPECT_THAT(std::string(reader->Get(threes).message()), HasSubstr("another type"));
  std::vector<double> one;
  EXPECT_THAT(std::string((*ArchiveReader::Open(*store_, "a"))->GetExactly(one, 2).message()),
              HasSubstr("another size"));
  int32_t number = 0;
  EXPECT_THAT(std::string((*ArchiveReader::Open(*store_, "a"))->Get(number).message()),
              HasSubstr("another type"));
}

}  // namespace
}  // namespace cvxq
