// One suite for all kinds of object stores: folders, and buckets of a server inside the test. With
// CVXQ_TEST_S3=s3://BUCKET/PREFIX (and AWS_* as a user would set them) also on a real server.
#include "storage/object_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include "storage/s3/s3_store.h"
#include "tests/storage/fake_s3.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

using absl::StatusCode;

constexpr char kRealVariable[] = "CVXQ_TEST_S3";

// Something to open stores in, empty at first.
class Place {
 public:
  virtual ~Place() = default;
  virtual std::unique_ptr<ObjectStore> Open(const ObjectStoreOptions& options) = 0;
  virtual int64_t part_bytes() const { return 1000; }
};

class Folder : public Place {
 public:
  std::unique_ptr<ObjectStore> Open(const ObjectStoreOptions& options) override {
    return OpenObjectStore("file://" + folder_.File("made/when/needed"), options).value();
  }

 private:
  TempFolder folder_;
};

class FakeBucket : public Place {
 public:
  ~FakeBucket() override {
    EXPECT_EQ(server_.complaints(), std::vector<std::string>());
    EXPECT_EQ(server_.unfinished_uploads(), 0);
  }
  std::unique_ptr<ObjectStore> Open(const ObjectStoreOptions& options) override {
    return OpenS3Store(server_.Config("some/pre fix"), options).value();
  }

 private:
  FakeS3 server_;
};

class RealBucket : public Place {
 public:
  RealBucket() {
    std::random_device random;
    address_ = absl::StrCat(std::getenv(kRealVariable), "/test-", random(), "-", random());
  }
  ~RealBucket() override {
    const auto store = OpenObjectStore(address_).value();
    const auto left = store->List("").value();
    for (const ObjectInfo& info : left) {
      EXPECT_TRUE(store->Delete(info.key).ok()) << info.key;
    }
  }
  std::unique_ptr<ObjectStore> Open(const ObjectStoreOptions& options) override {
    return OpenObjectStore(address_, options).value();
  }
  int64_t part_bytes() const override { return int64_t{5} << 20; }

 private:
  std::string address_;
};

struct Kind {
  const char* name;
  std::function<std::unique_ptr<Place>()> make;
};

void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

std::string Pattern(int64_t size, int seed = 1) {
  std::string bytes(size, '\0');
  for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * i >> 5) + i * seed);
  return bytes;
}

std::string ReadSpan(ObjectStore& store, const std::string& key, int64_t offset, int64_t size) {
  std::string bytes(size, '?');
  const Status status = store.Read(key, "", offset, std::as_writable_bytes(std::span(bytes)));
  return status.ok() ? bytes : std::string(status.message());
}

class ObjectStoreTest : public testing::TestWithParam<Kind> {
 protected:
  ObjectStoreTest() : place_(GetParam().make()), part_(place_->part_bytes()) {
    store_ = place_->Open({.parallel_requests = 4, .part_bytes = part_, .backoff_ms = 1});
  }

  const std::unique_ptr<Place> place_;
  const int64_t part_;
  std::unique_ptr<ObjectStore> store_;
};

TEST_P(ObjectStoreTest, ReadsWhatWasWritten) {
  for (const std::string& bytes : {Pattern(2000), std::string(), std::string("a\0b\r\n", 5)}) {
    ASSERT_EQ(store_->Write("folder/x", bytes), absl::OkStatus());
    const auto info = store_->Head("folder/x");
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ(info->key, "folder/x");
    EXPECT_EQ(info->size, static_cast<int64_t>(bytes.size()));
    EXPECT_NE(info->etag, "");
    EXPECT_EQ(store_->ReadAll("folder/x", 2000).value(), bytes);
    EXPECT_EQ(ReadSpan(*store_, "folder/x", 0, bytes.size()), bytes);
  }
}

TEST_P(ObjectStoreTest, ReadsSpans) {
  const std::string bytes = Pattern(3 * part_ + 17);
  ASSERT_EQ(store_->Write("x", bytes), absl::OkStatus());
  for (const int64_t offset : {int64_t{0}, int64_t{1}, part_ - 1, 3 * part_ + 16}) {
    for (const int64_t size : {int64_t{1}, part_, part_ + 1, 3 * part_ + 17}) {
      if (offset + size > static_cast<int64_t>(bytes.size())) continue;
      EXPECT_TRUE(ReadSpan(*store_, "x", offset, size) == bytes.substr(offset, size))
          << offset << " " << size;
    }
  }
  std::string none;
  EXPECT_EQ(store_->Read("x", "", bytes.size(), std::as_writable_bytes(std::span(none))),
            absl::OkStatus());
}

TEST_P(ObjectStoreTest, RefusesSpansBeyondTheEnd) {
  ASSERT_EQ(store_->Write("x", Pattern(100)), absl::OkStatus());
  std::string out(50, '?');
  std::string large(3 * part_, '?');
  for (const int64_t offset : {int64_t{51}, int64_t{100}, int64_t{1000}, int64_t{-1}, INT64_MAX}) {
    ExpectError(store_->Read("x", "", offset, std::as_writable_bytes(std::span(out))),
                StatusCode::kOutOfRange, "x");
    ExpectError(store_->Read("x", "", offset, std::as_writable_bytes(std::span(large))),
                StatusCode::kOutOfRange, "x");
  }
  ExpectError(store_->Read("x", "", 101, {}), StatusCode::kOutOfRange, "x");
}

TEST_P(ObjectStoreTest, ReadsOnlyTheVersionThatWasAskedFor) {
  std::string out(2 * part_, '?');
  const auto span = std::as_writable_bytes(std::span(out));
  ASSERT_EQ(store_->Write("x", Pattern(2 * part_, 1)), absl::OkStatus());
  const std::string first = store_->Head("x")->etag;
  ASSERT_EQ(store_->Read("x", first, 0, span), absl::OkStatus());
  // Many versions of one size, one right after the other.
  std::string last = first;
  for (int seed = 2; seed < 6; ++seed) {
    ASSERT_EQ(store_->Write("x", Pattern(2 * part_, seed)), absl::OkStatus());
    const std::string etag = store_->Head("x")->etag;
    EXPECT_NE(etag, first);
    EXPECT_NE(etag, last);
    last = etag;
  }
  ExpectError(store_->Read("x", first, 0, span), StatusCode::kFailedPrecondition, "changed");
  ExpectError(store_->Read("x", first, 0, span.first(10)), StatusCode::kFailedPrecondition,
              "changed");
  ExpectError(store_->Read("x", first, 0, {}), StatusCode::kFailedPrecondition, "changed");
  ASSERT_EQ(store_->Read("x", last, 0, span), absl::OkStatus());
  EXPECT_TRUE(out == Pattern(2 * part_, 5));
}

TEST_P(ObjectStoreTest, TellsWhatIsNotThere) {
  ASSERT_EQ(store_->Write("there/x", "1"), absl::OkStatus());
  std::string out(2 * part_, '?');
  for (const std::string key : {"none", "none/x", "there", "there/x/y"}) {
    const std::string name = store_->address() + "/" + key;
    ExpectError(store_->Head(key).status(), StatusCode::kNotFound, name);
    ExpectError(store_->ReadAll(key, 10).status(), StatusCode::kNotFound, name);
    ExpectError(store_->Read(key, "", 0, std::as_writable_bytes(std::span(out))),
                StatusCode::kNotFound, name);
    ExpectError(store_->Read(key, "", 0, std::as_writable_bytes(std::span(out)).first(1)),
                StatusCode::kNotFound, name);
    EXPECT_EQ(store_->Delete(key), absl::OkStatus());
  }
  EXPECT_EQ(store_->ReadAll("there/x", 1).value(), "1");
}

TEST_P(ObjectStoreTest, LimitsWholeReads) {
  ASSERT_EQ(store_->Write("x", Pattern(100'000)), absl::OkStatus());
  EXPECT_EQ(store_->ReadAll("x", 100'000)->size(), 100'000u);
  for (const int64_t limit : {99'999, 10, 0}) {
    ExpectError(store_->ReadAll("x", limit).status(), StatusCode::kResourceExhausted, "x");
  }
}

TEST_P(ObjectStoreTest, LimitsSmallObjects) {
  const std::string large(kLargestSmallObject + 1, 'x');
  ExpectError(store_->Write("x", large), StatusCode::kInvalidArgument, "x");
  ExpectError(store_->WriteIfAbsent("x", large), StatusCode::kInvalidArgument, "x");
  ExpectError(store_->Head("x").status(), StatusCode::kNotFound, "x");
}

TEST_P(ObjectStoreTest, RefusesBadKeys) {
  std::string out(1, '?');
  for (const std::string& key :
       {std::string(), std::string("/x"), std::string("x/"), std::string("a//b"),
        std::string("../x"), std::string("a/../../x"), std::string("."), std::string("a/."),
        std::string("a\nb"), std::string("a\0b", 3), std::string("a/.cvxq-partial-1"),
        std::string(256, 'x'),
        absl::StrCat(std::string(255, 'x'), "/", std::string(255, 'x'), "/", std::string(255, 'x'),
                     "/", std::string(150, 'x'))}) {
    const std::string what = "object key";
    ExpectError(store_->Head(key).status(), StatusCode::kInvalidArgument, what);
    ExpectError(store_->ReadAll(key, 1).status(), StatusCode::kInvalidArgument, what);
    ExpectError(store_->Read(key, "", 0, std::as_writable_bytes(std::span(out))),
                StatusCode::kInvalidArgument, what);
    ExpectError(store_->Write(key, ""), StatusCode::kInvalidArgument, what);
    ExpectError(store_->WriteIfAbsent(key, ""), StatusCode::kInvalidArgument, what);
    ExpectError(store_->Create(key, 0).status(), StatusCode::kInvalidArgument, what);
    ExpectError(store_->Delete(key), StatusCode::kInvalidArgument, what);
  }
  for (const char* prefix : {"/x", "../x", "a/../x", "a//x"}) {
    ExpectError(store_->List(prefix).status(), StatusCode::kInvalidArgument, "object key");
  }
}

TEST_P(ObjectStoreTest, WritesOnlyWhereNothingIs) {
  ASSERT_EQ(store_->WriteIfAbsent("a/x", "mine"), absl::OkStatus());
  for (const char* other : {"your", "", "min", "mine and more"}) {
    ExpectError(store_->WriteIfAbsent("a/x", other), StatusCode::kAlreadyExists,
                store_->address() + "/a/x");
  }
  EXPECT_EQ(store_->WriteIfAbsent("a/x", "mine"), absl::OkStatus());
  EXPECT_EQ(store_->ReadAll("a/x", 100).value(), "mine");
  ASSERT_EQ(store_->Delete("a/x"), absl::OkStatus());
  EXPECT_EQ(store_->WriteIfAbsent("a/x", "your"), absl::OkStatus());
  EXPECT_EQ(store_->ReadAll("a/x", 100).value(), "your");
}

TEST_P(ObjectStoreTest, OneOfManyWritesWhereNothingIs) {
  constexpr int kThreads = 16, kRounds = 50;
  std::vector<std::vector<Status>> outcomes(kRounds, std::vector<Status>(kThreads));
  std::atomic<int> ready = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        const auto own = place_->Open({});
        for (int round = 0; round < kRounds; ++round) {
          ++ready;
          while (ready < kThreads * (round + 1)) std::this_thread::yield();
          outcomes[round][t] =
              own->WriteIfAbsent(absl::StrCat("epochs/", round), std::string(100 + t, 'x'));
        }
      });
    }
  }
  for (int round = 0; round < kRounds; ++round) {
    int winners = 0;
    const size_t size = store_->ReadAll(absl::StrCat("epochs/", round), 1000)->size();
    for (int t = 0; t < kThreads; ++t) {
      const bool won = outcomes[round][t].ok();
      winners += won;
      EXPECT_EQ(won, size == 100u + t);
      if (!won) {
        ExpectError(outcomes[round][t], StatusCode::kAlreadyExists, "epochs");
      }
    }
    EXPECT_EQ(winners, 1);
  }
}

TEST_P(ObjectStoreTest, WritersMakeWholeObjects) {
  for (const int64_t size : {int64_t{0}, int64_t{1}, part_ - 1, part_, part_ + 1, 5 * part_ + 7}) {
    const std::string bytes = Pattern(size, 3);
    auto writer = store_->Create("w/x", 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    // In pieces that fit no part.
    const int64_t piece = part_ / 3 + 1;
    for (int64_t i = 0; i < size; i += piece) {
      ASSERT_EQ(
          (*writer)->Append(std::as_bytes(std::span(bytes).subspan(i, std::min(piece, size - i)))),
          absl::OkStatus());
    }
    if (size == 0) {
      ExpectError(store_->Head("w/x").status(), StatusCode::kNotFound, "w/x");
    } else {
      EXPECT_LT(store_->Head("w/x")->size, size);  // still the one before
    }
    ASSERT_EQ((*writer)->Commit(), absl::OkStatus());
    EXPECT_FALSE((*writer)->Commit().ok());
    EXPECT_EQ(store_->Head("w/x")->size, size);
    EXPECT_TRUE(ReadSpan(*store_, "w/x", 0, size) == bytes);
    EXPECT_EQ(store_->List("")->size(), 1u);
  }
}

TEST_P(ObjectStoreTest, WritersTakeManyPartsAtOnce) {
  const std::string bytes = Pattern(7 * part_ + 5);
  const auto writer = store_->Create("x", 7 * part_).value();
  ASSERT_EQ(writer->Append(std::as_bytes(std::span(bytes))), absl::OkStatus());
  ASSERT_EQ(writer->Commit(), absl::OkStatus());
  EXPECT_TRUE(ReadSpan(*store_, "x", 0, bytes.size()) == bytes);
}

TEST_P(ObjectStoreTest, DroppedWritersLeaveNothing) {
  ASSERT_EQ(store_->Write("w/x", "old"), absl::OkStatus());
  const std::string bytes = Pattern(3 * part_);
  for (const int64_t size : {int64_t{0}, int64_t{10}, 3 * part_}) {
    const auto writer = store_->Create("w/x", size).value();
    ASSERT_EQ(writer->Append(std::as_bytes(std::span(bytes).first(size))), absl::OkStatus());
  }
  const auto list = store_->List("").value();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(store_->ReadAll("w/x", 10).value(), "old");
}

TEST_P(ObjectStoreTest, TwoWritersOfOneKeyDoNotMix) {
  const auto a = store_->Create("x", 0).value(), b = store_->Create("x", 0).value();
  const std::string first = Pattern(2 * part_ + 1, 1), second = Pattern(2 * part_ + 1, 2);
  ASSERT_EQ(a->Append(std::as_bytes(std::span(first))), absl::OkStatus());
  ASSERT_EQ(b->Append(std::as_bytes(std::span(second))), absl::OkStatus());
  ASSERT_EQ(a->Commit(), absl::OkStatus());
  EXPECT_TRUE(ReadSpan(*store_, "x", 0, first.size()) == first);
  ASSERT_EQ(b->Commit(), absl::OkStatus());
  EXPECT_TRUE(ReadSpan(*store_, "x", 0, second.size()) == second);
}

TEST_P(ObjectStoreTest, ListsInByteOrder) {
  EXPECT_EQ(store_->List("")->size(), 0u);
  EXPECT_EQ(store_->List("a/b")->size(), 0u);
  const std::vector<std::string> keys = {
      "a b+c%41&d<e>\"'", "a-1", "a/1", "a/2", "a/b/c/d", "a0", "b", "\xc3\xbc/\xe2\x82\xac", "~"};
  for (const std::string& key : keys) {
    ASSERT_EQ(store_->Write(key, std::string(key.size(), 'x')), absl::OkStatus());
  }
  const auto expect = [&](const std::string& prefix, std::vector<std::string> expected) {
    std::sort(expected.begin(), expected.end());
    const auto list = store_->List(prefix);
    ASSERT_TRUE(list.ok()) << list.status();
    std::vector<std::string> found;
    for (const ObjectInfo& info : *list) {
      found.push_back(info.key);
      EXPECT_EQ(info.size, static_cast<int64_t>(info.key.size()));
      EXPECT_EQ(info.etag, store_->Head(info.key)->etag) << info.key;
    }
    EXPECT_EQ(found, expected) << prefix;
  };
  expect("", keys);
  expect("a", {keys[0], "a-1", "a/1", "a/2", "a/b/c/d", "a0"});
  expect("a/", {"a/1", "a/2", "a/b/c/d"});
  expect("a/b", {"a/b/c/d"});
  expect("a/b/c/d", {"a/b/c/d"});
  expect("a b+", {keys[0]});
  expect("none", {});
  expect("b/", {});
  for (const std::string& key : keys) ASSERT_EQ(store_->Delete(key), absl::OkStatus());
  expect("", {});
  // Folders that were left are no obstacle.
  EXPECT_EQ(store_->Write("a/b/c", "now an object"), absl::OkStatus());
}

TEST_P(ObjectStoreTest, ServesManyThreads) {
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 10; ++round) {
        const std::string key = absl::StrCat("folder", round % 2, "/", t);
        const std::string bytes = Pattern(part_ + 100, t);
        EXPECT_EQ(store_->Write(key, bytes), absl::OkStatus());
        EXPECT_TRUE(ReadSpan(*store_, key, 0, bytes.size()) == bytes);
        EXPECT_EQ(store_->Delete(key), absl::OkStatus());
      }
    });
  }
}

TEST_P(ObjectStoreTest, KeepsThePromiseOfConditionalWrites) {
  EXPECT_EQ(store_->CheckConditionalWrites("service/scratch"), absl::OkStatus());
  EXPECT_EQ(store_->List("")->size(), 0u);
  ExpectError(store_->CheckConditionalWrites("../x"), StatusCode::kInvalidArgument, "key");
}

std::vector<Kind> Kinds() {
  std::vector<Kind> kinds = {{"file", std::make_unique<Folder>},
                             {"fake_s3", std::make_unique<FakeBucket>}};
  if (std::getenv(kRealVariable) != nullptr) {
    kinds.push_back({"real_s3", std::make_unique<RealBucket>});
  }
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(Kinds, ObjectStoreTest, testing::ValuesIn(Kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(RealObjectStore, IsTestedWhereThereIsOne) {
  if (std::getenv(kRealVariable) == nullptr) {
    GTEST_SKIP() << "set " << kRealVariable << "=s3://BUCKET/PREFIX to test a real server";
  }
}

TEST(OpenObjectStore, RefusesOtherAddresses) {
  for (const char* address :
       {"", "gs://bucket/x", "http://host/x", "file://relative", "s3://", "s3:///x", "s3://b",
        "s3://bucket//x", "s3://bucket//", "s3://bucket/../x", "s3://../x", "s3://buc ket",
        "s3://user:password@bucket/x"}) {
    EXPECT_EQ(OpenObjectStore(address).status().code(), StatusCode::kInvalidArgument) << address;
  }
  const TempFolder folder;
  Put(folder.File("file"), "");
  ExpectError(OpenObjectStore(folder.File("file")).status(), StatusCode::kFailedPrecondition,
              "no folder");
}

TEST(OpenObjectStore, OpensFolders) {
  const TempFolder folder;
  for (const std::string& address : {folder.path(), folder.path() + "//", "file://" + folder.path(),
                                     "file://" + folder.path() + "/"}) {
    const auto store = OpenObjectStore(address);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->address(), folder.path());
    EXPECT_EQ((*store)->Write("x", address), absl::OkStatus());
    EXPECT_EQ(Slurp(folder.File("x")), address);
  }
}

}  // namespace
}  // namespace cvxq
