// Objects as memory: what is read, how often, and what becomes of it.
#include "storage/object_map.h"

#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "storage/s3/s3_store.h"
#include "storage/safetensors.h"
#include "tests/storage/fake_s3.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

using absl::StatusCode;

constexpr int64_t kPart = 64 << 10;

std::string Pattern(int64_t size, int seed) {
  std::string bytes(size, '\0');
  for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * i >> 5) + i + seed);
  return bytes;
}

class ObjectMapTest : public testing::Test {
 protected:
  ObjectMapTest()
      : store_(OpenS3Store(server_.Config("pre"),
                           {.parallel_requests = 4, .part_bytes = kPart, .backoff_ms = 1})
                   .value()) {}
  ~ObjectMapTest() override {
    EXPECT_EQ(server_.complaints(), std::vector<std::string>());
    EXPECT_EQ(scratch_.Count(), 0);
  }

  std::shared_ptr<ObjectMap> Open(const std::string& bytes) {
    bytes_ = bytes;
    server_.Put("pre/x", bytes);
    return ObjectMap::Open(store_, store_->Head("x").value(), scratch_.path()).value();
  }
  // Whether a part is there as it should be.
  bool Holds(const ObjectMap& map, int64_t offset, int64_t size) const {
    return std::string_view(reinterpret_cast<const char*>(map.bytes().data()) + offset, size) ==
           std::string_view(bytes_).substr(offset, size);
  }

  FakeS3 server_;
  const std::shared_ptr<ObjectStore> store_;
  TempFolder scratch_;
  std::string bytes_;
};

TEST_F(ObjectMapTest, ReadsWhatIsLoadedAndOnce) {
  const auto map = Open(Pattern(10 * kPart, 0));
  EXPECT_EQ(server_.body_bytes_sent(), 0);
  std::shared_ptr<const void> a, b, again;
  ASSERT_TRUE(map->Load(100, 3 * kPart, a).ok());
  ASSERT_TRUE(map->Load(100 + 3 * kPart, 7, b).ok());
  EXPECT_TRUE(Holds(*map, 100, 3 * kPart + 7));
  map->Release(100);
  EXPECT_TRUE(Holds(*map, 100, 3 * kPart)) << "still held";
  a.reset();
  map->Release(100);
  ASSERT_TRUE(map->Load(100, 3 * kPart, again).ok());
  EXPECT_TRUE(Holds(*map, 100, 3 * kPart));
  EXPECT_EQ(server_.body_bytes_sent(), 3 * kPart + 7);
}

TEST_F(ObjectMapTest, ManyThreadsReadAPartOnce) {
  const auto map = Open(Pattern(40 * kPart, 1));
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 40; ++i) {
          const int64_t at = (i * 7 + t * 3) % 40 * kPart;
          std::shared_ptr<const void> hold;
          if (!map->Load(at, kPart, hold).ok() || !Holds(*map, at, kPart)) ++wrong;
          map->Release(at);
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(server_.body_bytes_sent(), 40 * kPart);
}

TEST_F(ObjectMapTest, AHoldOutlivesTheMap) {
  auto map = Open(Pattern(kPart, 2));
  const std::byte* data = map->bytes().data();
  std::shared_ptr<const void> hold;
  ASSERT_TRUE(map->Load(5, 1000, hold).ok());
  map.reset();
  EXPECT_EQ(static_cast<char>(data[5]), bytes_[5]);
}

TEST_F(ObjectMapTest, ReleasedPartsMakeRoom) {
  bytes_ = Pattern(8 * kPart, 7);
  server_.Put("pre/x", bytes_);
  const auto map =
      ObjectMap::Open(store_, store_->Head("x").value(), scratch_.path(), 3 * kPart).value();
  const auto load = [&](int64_t i, std::shared_ptr<const void>& hold) {
    return map->Load(i * kPart + 5, kPart, hold);  // pages are shared with neighbours
  };
  std::shared_ptr<const void> hold[5];
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(load(i, hold[i]).ok());
  ExpectError(load(3, hold[3]), StatusCode::kResourceExhausted, scratch_.path());
  // Released but held, and held no more but not released: both stay.
  map->Release(0 * kPart + 5);
  hold[1].reset();
  EXPECT_FALSE(load(3, hold[3]).ok());
  map->Release(1 * kPart + 5);
  ASSERT_TRUE(load(3, hold[3]).ok());
  for (const int i : {0, 2, 3}) EXPECT_TRUE(Holds(*map, i * kPart + 5, kPart)) << i;
  EXPECT_FALSE(Holds(*map, 1 * kPart + 5, kPart)) << "it was given up";
  hold[0].reset();
  const int64_t before = server_.body_bytes_sent();
  ASSERT_TRUE(load(1, hold[1]).ok());
  EXPECT_EQ(server_.body_bytes_sent() - before, kPart);
  for (const int i : {1, 2, 3}) EXPECT_TRUE(Holds(*map, i * kPart + 5, kPart)) << i;
}

TEST_F(ObjectMapTest, AnObjectThatChangesIsNoticed) {
  const auto map = Open(Pattern(4 * kPart, 3));
  std::shared_ptr<const void> hold;
  ASSERT_TRUE(map->Load(0, kPart, hold).ok());
  server_.Put("pre/x", Pattern(4 * kPart, 4));
  ExpectError(map->Load(kPart, kPart, hold), StatusCode::kFailedPrecondition, "changed");
  EXPECT_TRUE(Holds(*map, 0, kPart)) << "what was read stays";
}

TEST_F(ObjectMapTest, AFailureLeavesThePartForAnotherTry) {
  const auto map = Open(Pattern(4 * kPart, 5));
  std::shared_ptr<const void> hold;
  server_.Break(S3Op::kGet, {.kind = S3Fault::kAnswer, .status = 403, .text = "AccessDenied"});
  ExpectError(map->Load(0, kPart, hold), StatusCode::kPermissionDenied, "/x");
  server_.Break(S3Op::kGet, {.kind = S3Fault::kTruncated}, 3);
  server_.Break(S3Op::kGet, {.kind = S3Fault::kAnswer, .status = 503, .text = "SlowDown"}, 2);
  ASSERT_TRUE(map->Load(0, kPart, hold).ok());
  EXPECT_TRUE(Holds(*map, 0, kPart));
}

TEST_F(ObjectMapTest, NoRoomIsAnErrorThatNamesTheFolder) {
  // A limit on the size of files stands for a full disk: the copy could not be made.
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old, small;
  getrlimit(RLIMIT_FSIZE, &old);
  small = old;
  small.rlim_cur = kPart;
  server_.Put("pre/x", Pattern(4 * kPart, 6));
  const ObjectInfo info = store_->Head("x").value();
  setrlimit(RLIMIT_FSIZE, &small);
  const Status status = ObjectMap::Open(store_, info, scratch_.path()).status();
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, before);
  ExpectError(status, StatusCode::kResourceExhausted, scratch_.path());
  ExpectError(ObjectMap::Open(store_, info, scratch_.File("none")).status(), StatusCode::kNotFound,
              "TMPDIR");
}

TEST_F(ObjectMapTest, ATruncatedObjectIsRefusedByItsHeader) {
  TempFolder folder;
  auto writer = SafetensorsWriter::Create(folder.File("m"), {{"a", DType::kF32, {4, 64}}}, {});
  ASSERT_TRUE(writer.ok());
  const std::string values(4 * 64 * 4, 'v');
  ASSERT_TRUE((*writer)->Append(std::as_bytes(std::span(values))).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  std::ifstream file(folder.File("m"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  const auto good = SafetensorsFile::Open(Open(whole));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ((*good)->Find("a")->data, nullptr) << "nobody can use what is not there";
  const auto tensor = (*good)->Load("a");
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(static_cast<char>(tensor->data[100]), 'v');
  for (const size_t size : {size_t{0}, size_t{7}, size_t{20}, whole.size() - 1}) {
    ExpectError(SafetensorsFile::Open(Open(whole.substr(0, size))).status(), StatusCode::kDataLoss,
                "/x");
  }
}

}  // namespace
}  // namespace cvxq
