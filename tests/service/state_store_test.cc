// What every state store promises (service/state_store.h), held against each kind of store.
#include "service/state_store.h"

#include <algorithm>
#include <set>
#include <thread>

#include "tests/service/child_process.h"
#include "tests/service/store_backends.h"

namespace cvxq {
namespace {

using absl::StatusCode;
using Names = std::vector<std::string>;

class StateStoreTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "redis" && !RedisServer::Installed()) {
      GTEST_SKIP() << RedisServer::kMissing;
    }
    backend_ = std::make_unique<StoreBackend>(GetParam());
    store_ = backend_->Open();
    ASSERT_NE(store_, nullptr);
  }

  int64_t Claim() { return *store_->ClaimEpoch("test"); }

  std::unique_ptr<StoreBackend> backend_;
  std::unique_ptr<StateStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Stores, StateStoreTest, testing::Values("sqlite", "redis"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(StateStoreTest, EpochsGrowForGood) {
  EXPECT_EQ(*store_->CurrentEpoch(), 0);
  const int64_t first = *store_->ClaimEpoch("a");
  EXPECT_GT(first, 0);
  EXPECT_EQ(*store_->CurrentEpoch(), first);
  const int64_t second = *store_->ClaimEpoch("a");
  EXPECT_GT(second, first);
  store_.reset();
  backend_->CrashServer();
  store_ = backend_->Open();
  EXPECT_EQ(*store_->CurrentEpoch(), second);
  const std::unique_ptr<StateStore> other = backend_->Open();
  const int64_t third = *other->ClaimEpoch("b");
  EXPECT_GT(third, second);
  EXPECT_EQ(*store_->CurrentEpoch(), third);
}

TEST_P(StateStoreTest, NobodyWritesWithoutAnEpoch) {
  for (const int64_t epoch : {-1, 0, 1}) {
    EXPECT_EQ(store_->CreateLog(epoch, "log", "", "", {"a"}).status().code(),
              StatusCode::kFailedPrecondition);
    EXPECT_EQ(store_->DeleteLog(epoch, "log").code(), StatusCode::kFailedPrecondition);
    EXPECT_FALSE(store_->Append(epoch, "log", 0, {"a"}).ok());
  }
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names());
}

TEST_P(StateStoreTest, CreatesALogWithItsFirstRecords) {
  const int64_t epoch = Claim();
  const StatusOr<CreatedLog> log = store_->CreateLog(epoch, "log", "id", "digest", {"a", "b", "c"});
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_EQ(log->name, "log");
  EXPECT_TRUE(log->created);
  EXPECT_EQ(log->request_digest, "digest");
  const std::vector<LogRecord> records = *store_->Read("log", 0, 10);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].revision, 1);
  EXPECT_EQ(records[2].revision, 3);
  EXPECT_EQ(records[2].bytes, "c");
}

TEST_P(StateStoreTest, ANameIsGivenOnce) {
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "id", "", {"a"}).ok());
  for (const char* id : {"", "other"}) {
    ExpectError(store_->CreateLog(epoch, "log", id, "", {"b"}).status(), StatusCode::kAlreadyExists,
                "\"log\"");
  }
  EXPECT_EQ(Contents(*store_, "log"), Names({"a"}));
  // A request that was refused is not remembered.
  EXPECT_TRUE(store_->CreateLog(epoch, "log2", "other", "", {"b"})->created);
}

TEST_P(StateStoreTest, ARequestIdStandsForOneLog) {
  const int64_t epoch = Claim();
  const std::string id("i\0d", 3), digest("d\0\xff", 3);
  ASSERT_TRUE(store_->CreateLog(epoch, "log", id, digest, {"a"}).ok());
  ASSERT_TRUE(store_->Append(epoch, "log", 1, {"b"}).ok());
  store_ = backend_->Open();
  const Names other_names = {"log", "another"}, digests = {digest, "another digest"};
  for (const std::string& name : other_names) {
    for (const std::string& other : digests) {
      const StatusOr<CreatedLog> log = store_->CreateLog(epoch, name, id, other, {"x", "y", "z"});
      ASSERT_TRUE(log.ok()) << log.status();
      EXPECT_EQ(log->name, "log");
      EXPECT_FALSE(log->created);
      EXPECT_EQ(log->request_digest, digest);
    }
  }
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "b"}));
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log"}));
  // Deleted with its log.
  ASSERT_TRUE(store_->DeleteLog(epoch, "log").ok());
  EXPECT_TRUE(store_->CreateLog(epoch, "another", id, "new", {"x"})->created);
  EXPECT_EQ(store_->CreateLog(epoch, "log", id, "new", {"x"})->name, "another");
}

TEST_P(StateStoreTest, AppendsBehindTheLastRevisionOnly) {
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", {"a"}).ok());
  EXPECT_EQ(*store_->Append(epoch, "log", 1, {"b", "c"}), 3);
  EXPECT_EQ(*store_->Append(epoch, "log", 3, {"d"}), 4);
  for (const int64_t after : {int64_t{-1}, int64_t{0}, int64_t{3}, int64_t{5}, int64_t{1} << 60}) {
    ExpectError(store_->Append(epoch, "log", after, {"x"}).status(), StatusCode::kAborted,
                "is 4, not");
  }
  ExpectError(store_->Append(epoch, "none", 0, {"x"}).status(), StatusCode::kNotFound, "\"none\"");
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "b", "c", "d"}));
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log"}));
}

TEST_P(StateStoreTest, ReadsInPieces) {
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", {"a", "b", "c", "d", "e"}).ok());
  Names read;
  for (int64_t after = 0;;) {
    const std::vector<LogRecord> piece = *store_->Read("log", after, 2);
    if (piece.empty()) break;
    EXPECT_EQ(piece.front().revision, after + 1);
    for (const LogRecord& record : piece) read.push_back(record.bytes);
    after = piece.back().revision;
  }
  EXPECT_EQ(read, Names({"a", "b", "c", "d", "e"}));
  EXPECT_EQ(store_->Read("log", 3, INT64_MAX)->size(), 2u);
  EXPECT_TRUE(store_->Read("log", 5, 1)->empty());
  ExpectError(store_->Read("log", 6, 1).status(), StatusCode::kOutOfRange, "beyond the last");
  ExpectError(store_->Read("log", INT64_MAX, 1).status(), StatusCode::kOutOfRange, "which is 5");
  ExpectError(store_->Read("none", 0, 1).status(), StatusCode::kNotFound, "\"none\"");
  EXPECT_EQ(store_->Read("log", -1, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->Read("log", 0, 0).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(StateStoreTest, ASnapshotTakesThePlaceOfRecords) {
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "id", "", {"a", "b", "c", "d", "e"}).ok());
  ExpectError(store_->Compact(epoch, "log", 6, "s"), StatusCode::kOutOfRange, "6 is beyond");
  ExpectError(store_->Compact(epoch, "none", 1, "s"), StatusCode::kNotFound, "\"none\"");
  ASSERT_TRUE(store_->Compact(epoch, "log", 3, "abc").ok());
  const std::vector<LogRecord> records = *store_->Read("log", 0, 10);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].revision, 3);
  EXPECT_EQ(Contents(*store_, "log"), Names({"abc", "d", "e"}));
  EXPECT_EQ(store_->Read("log", 2, 1)->front().bytes, "abc");
  EXPECT_EQ(store_->Read("log", 3, 1)->front().bytes, "d");
  ExpectError(store_->Read("log", 1, 10).status(), StatusCode::kOutOfRange, "compacted");
  // Done again, and further back: nothing to do. Revisions go on where they were.
  EXPECT_TRUE(store_->Compact(epoch, "log", 3, "abc").ok());
  EXPECT_TRUE(store_->Compact(epoch, "log", 2, "ab").ok());
  EXPECT_EQ(*store_->Append(epoch, "log", 5, {"f"}), 6);
  EXPECT_EQ(Contents(*store_, "log"), Names({"abc", "d", "e", "f"}));
  ASSERT_TRUE(store_->Compact(epoch, "log", 6, "all").ok());
  EXPECT_EQ(Contents(*store_, "log"), Names({"all"}));
  EXPECT_EQ(*store_->Append(epoch, "log", 6, {"g"}), 7);
  EXPECT_EQ(Contents(*store_, "log"), Names({"all", "g"}));
  EXPECT_FALSE(store_->CreateLog(epoch, "log", "id", "", {"x"})->created);
}

TEST_P(StateStoreTest, PutsALogInThePlaceOfAnother) {
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "old id", "old", {"a", "b"}).ok());
  ASSERT_TRUE(store_->CreateLog(epoch, "other", "id", "old", {"c"}).ok());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(store_->PutLog(epoch, "log", "id", "digest", {7, "snapshot"}).ok());
    const std::vector<LogRecord> records = *store_->Read("log", 0, 10);
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0].revision, 7);
    EXPECT_EQ(records[0].bytes, "snapshot");
  }
  EXPECT_EQ(*store_->Append(epoch, "log", 7, {"more"}), 8);
  ExpectError(store_->Read("log", 5, 10).status(), StatusCode::kOutOfRange, "compacted");
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log", "other"}));
  const CreatedLog known = *store_->CreateLog(epoch, "new", "id", "digest", {"x"});
  EXPECT_EQ(known.name, "log");
  EXPECT_EQ(known.request_digest, "digest");
  EXPECT_TRUE(store_->CreateLog(epoch, "new", "old id", "", {"x"})->created);
  ASSERT_TRUE(store_->PutLog(epoch, "newer", "", "", {1, "y"}).ok());
  ASSERT_TRUE(store_->PutLog(epoch, "newest", "", "", {1, "z"}).ok());
  EXPECT_EQ(Contents(*store_, "newer"), Names({"y"}));
  EXPECT_EQ(store_->PutLog(epoch, "log", "", "", {0, "x"}).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(store_->DeleteLog(epoch, "log").ok());
  EXPECT_TRUE(store_->CreateLog(epoch, "log", "id", "", {"x"})->created);
}

TEST_P(StateStoreTest, AnEpochIsRenewedUnlessAnotherOneHasIt) {
  const int64_t first = Claim();
  const int64_t second = *store_->RenewEpoch(first, "test");
  EXPECT_GT(second, first);
  EXPECT_EQ(*store_->CurrentEpoch(), second);
  const std::unique_ptr<StateStore> other = backend_->Open();
  const int64_t third = *other->ClaimEpoch("other");
  EXPECT_EQ(store_->RenewEpoch(second, "test").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(*store_->CurrentEpoch(), third);
  EXPECT_TRUE(other->CreateLog(third, "log", "", "", {"a"}).ok());
}

TEST_P(StateStoreTest, DeletesWhatIsThere) {
  const int64_t epoch = Claim();
  EXPECT_TRUE(store_->DeleteLog(epoch, "log").ok());
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", {"a", "b"}).ok());
  ASSERT_TRUE(store_->CreateLog(epoch, "log2", "", "", {"c"}).ok());
  EXPECT_TRUE(store_->DeleteLog(epoch, "log").ok());
  EXPECT_EQ(store_->Read("log", 0, 1).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->Append(epoch, "log", 2, {"x"}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log2"}));
  EXPECT_TRUE(store_->CreateLog(epoch, "log", "", "", {"d"})->created);
  EXPECT_EQ(Contents(*store_, "log"), Names({"d"}));
  EXPECT_EQ(Contents(*store_, "log2"), Names({"c"}));
}

TEST_P(StateStoreTest, ListsNamesOfAnyBytesInByteOrder) {
  const int64_t epoch = Claim();
  Names names = {"jobs/a b",
                 "jobs/a/b",
                 "jobs/ü",
                 "jobs/日本",
                 "jobs",
                 "jobs/",
                 "JOBS/x",
                 " ",
                 "*?[a]",
                 "(",
                 "[",
                 "-",
                 "+",
                 "{x}:y",
                 "\n\r",
                 "%s",
                 "\xff",
                 "\xff\xff",
                 "\xff\xff\xff!",
                 "jobs0",
                 "job",
                 "x'; --",
                 "\"quoted\"",
                 std::string("nul\0b", 5),
                 std::string(1, '\0'),
                 std::string(1024, 'l')};
  for (const std::string& name : names) {
    const StatusOr<CreatedLog> log = store_->CreateLog(epoch, name, "", "", {"of " + name});
    ASSERT_TRUE(log.ok()) << log.status();
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(*store_->ListLogs("", "", INT64_MAX), names);
  for (const std::string& name : names) EXPECT_EQ(Contents(*store_, name), Names({"of " + name}));
  for (const std::string prefix : {"", "job", "jobs/", "\xff", "\xff\xff", "none", "("}) {
    Names expected, listed;
    for (const std::string& name : names) {
      if (name.compare(0, prefix.size(), prefix) == 0) expected.push_back(name);
    }
    while (true) {
      const Names page = *store_->ListLogs(prefix, listed.empty() ? "" : listed.back(), 2);
      EXPECT_LE(page.size(), 2u);
      if (page.empty()) break;
      listed.insert(listed.end(), page.begin(), page.end());
    }
    EXPECT_EQ(listed, expected) << prefix;
  }
  // `after` need not be a name, nor lie among those with the prefix.
  EXPECT_EQ(store_->ListLogs("jobs/", "a", 1)->front(), "jobs/");
  EXPECT_TRUE(store_->ListLogs("jobs/", "zebra", 1)->empty());
  EXPECT_EQ(store_->ListLogs("", "", 0).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(StateStoreTest, RecordsMayHoldAnything) {
  const int64_t epoch = Claim();
  std::string all_bytes;
  for (int i = 0; i < 512; ++i) all_bytes += static_cast<char>(i);
  const Names records = {"", std::string(3, '\0'), "\r\n$-1\r\n", all_bytes,
                         std::string(kLargestRecord, '\xaa')};
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", records).ok());
  EXPECT_EQ(*store_->Append(epoch, "log", 5, records), 10);
  ASSERT_TRUE(store_->Compact(epoch, "log", 5, all_bytes).ok());
  Names expected = {all_bytes};
  expected.insert(expected.end(), records.begin(), records.end());
  EXPECT_EQ(Contents(*store_, "log"), expected);
  const Names largest(kLargestBatch / kLargestRecord, std::string(kLargestRecord, 'x'));
  EXPECT_EQ(*store_->Append(epoch, "log", 10, largest), 26);
  EXPECT_EQ(*store_->Append(epoch, "log", 26, Names(kMostRecords, "x")), 26 + kMostRecords);
}

TEST_P(StateStoreTest, WhatIsTooLargeIsRefused) {
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", {"a"}).ok());
  const std::string large(kLargestRecord + 1, 'x'), long_name(kLongestName + 1, 'x');
  const Names heavy(kLargestBatch / kLargestRecord + 1, std::string(kLargestRecord, 'x'));
  const std::vector<Names> bad = {{}, {"b", large}, heavy, Names(kMostRecords + 1, "x")};
  for (const Names& records : bad) {
    EXPECT_EQ(store_->Append(epoch, "log", 1, records).status().code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->CreateLog(epoch, "log2", "", "", records).status().code(),
              StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(store_->Compact(epoch, "log", 1, large).code(), StatusCode::kInvalidArgument);
  for (const std::string& name : {std::string(), long_name}) {
    EXPECT_EQ(store_->CreateLog(epoch, name, "", "", {"a"}).status().code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->Append(epoch, name, 1, {"a"}).status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->Read(name, 0, 1).status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->Compact(epoch, name, 1, "").code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->DeleteLog(epoch, name).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(store_->CreateLog(epoch, "log2", long_name, "", {"a"}).ok());
  EXPECT_FALSE(store_->CreateLog(epoch, "log2", "", long_name, {"a"}).ok());
  EXPECT_FALSE(store_->ClaimEpoch(long_name).ok());
  EXPECT_EQ(Contents(*store_, "log"), Names({"a"}));
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log"}));
}

// Every write with an epoch that is not the newest: refused, and nothing has changed.
void ExpectFenced(StateStore& store, int64_t epoch) {
  const auto fenced = [](const Status& status) {
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << status;
  };
  fenced(store.CreateLog(epoch, "new", "", "", {"x"}).status());
  fenced(store.CreateLog(epoch, "log", "id", "", {"x"}).status());
  fenced(store.Append(epoch, "log", 2, {"x"}).status());
  fenced(store.Append(epoch, "none", 0, {"x"}).status());
  fenced(store.Compact(epoch, "log", 2, "x"));
  fenced(store.PutLog(epoch, "log", "id", "", {9, "x"}));
  fenced(store.DeleteLog(epoch, "log"));
  fenced(store.DeleteLog(epoch, "none"));
  EXPECT_EQ(Contents(store, "log"), Names({"a", "b"}));
  EXPECT_EQ(*store.ListLogs("", "", 10), Names({"log"}));
}

TEST_P(StateStoreTest, ANewerEpochFencesOlderOnes) {
  const int64_t old_epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(old_epoch, "log", "id", "", {"a", "b"}).ok());
  const std::unique_ptr<StateStore> other = backend_->Open();
  const int64_t epoch = *other->ClaimEpoch("other");
  ExpectFenced(*store_, old_epoch);
  ExpectFenced(*other, old_epoch);
  ExpectFenced(*store_, epoch + 1);
  EXPECT_EQ(*other->Append(epoch, "log", 2, {"c"}), 3);
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "b", "c"}));
}

TEST_P(StateStoreTest, FencingHoldsBetweenProcesses) {
  store_.reset();
  const std::string address = backend_->address();
  ChildProcess child([&](const ChildProcess::Link& parent) {
    auto store = OpenStateStore(address);
    const int64_t epoch = *(*store)->ClaimEpoch("child");
    parent.Report(epoch);
    parent.Report((*store)->CreateLog(epoch, "log", "", "", {"a"}).ok());
    parent.Report((*store)->Append(epoch, "log", 1, {"b"}).value_or(-1));
    parent.Wait();
    parent.Report(static_cast<int>((*store)->Append(epoch, "log", 2, {"c"}).status().code()));
    parent.Report(static_cast<int>((*store)->DeleteLog(epoch, "log").code()));
    parent.Report(*(*store)->CurrentEpoch());
  });
  const int64_t child_epoch = *child.Next();
  EXPECT_EQ(child.Next(), 1);
  EXPECT_EQ(child.Next(), 2);
  store_ = backend_->Open();
  const int64_t epoch = Claim();
  EXPECT_GT(epoch, child_epoch);
  child.Continue();
  EXPECT_EQ(child.Next(), static_cast<int>(StatusCode::kFailedPrecondition));
  EXPECT_EQ(child.Next(), static_cast<int>(StatusCode::kFailedPrecondition));
  EXPECT_EQ(child.Next(), epoch);
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "b"}));
}

TEST_P(StateStoreTest, ManyThreadsAppendToOneLog) {
  constexpr int kThreads = 8, kEach = 12;
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", {"first"}).ok());
  const std::unique_ptr<StateStore> other = backend_->Open();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      StateStore& store = t % 2 == 0 ? *store_ : *other;
      int64_t last = 1;
      for (int i = 0; i < kEach;) {
        const StatusOr<int64_t> done = store.Append(epoch, "log", last, {absl::StrCat(t, "/", i)});
        if (done.ok()) {
          EXPECT_EQ(*done, last + 1);
          last = *done;
          ++i;
          continue;
        }
        ASSERT_EQ(done.status().code(), StatusCode::kAborted) << done.status();
        const std::vector<LogRecord> rest = *store.Read("log", last, 1000);
        if (!rest.empty()) last = rest.back().revision;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Names contents = Contents(*store_, "log");
  EXPECT_EQ(contents.size(), size_t{kThreads * kEach + 1});
  EXPECT_EQ(std::set<std::string>(contents.begin(), contents.end()).size(), contents.size());
}

TEST_P(StateStoreTest, WhatWasAcknowledgedSurvivesKill) {
  const bool redis = std::string(GetParam()) == "redis";
  const std::string address = backend_->address();
  const int64_t epoch = Claim();
  ASSERT_TRUE(store_->CreateLog(epoch, "log", "", "", {"0"}).ok());
  int64_t last = 1;
  for (int round = 0; round < (redis ? 5 : 20); ++round) {
    store_.reset();
    // Three records a call, of one value: a call that was torn apart would show.
    ChildProcess child([&](const ChildProcess::Link& parent) {
      auto store = OpenStateStore(address);
      const int64_t mine = *(*store)->ClaimEpoch("child");
      for (int64_t revision = last;;) {
        const StatusOr<int64_t> done = (*store)->Append(
            mine, "log", revision, Names(3, absl::StrCat(revision) + std::string(2000, '.')));
        if (!done.ok()) return;
        parent.Report(revision = *done);
      }
    });
    int64_t acknowledged = last;
    const auto await = [&](int calls) {
      for (int i = 0; i < calls; ++i) acknowledged = child.Next().value_or(acknowledged);
    };
    await(1 + round % 7);
    if (round % 2 == 1) {
      backend_->CrashServer();  // in the middle of the child's work, which goes on
      await(2);
    }
    child.Kill();
    while (const std::optional<int64_t> more = child.Next()) acknowledged = *more;
    backend_->CrashServer();
    store_ = backend_->Open();
    ASSERT_NE(store_, nullptr);
    const Names contents = Contents(*store_, "log");
    EXPECT_GT(acknowledged, last);
    last = static_cast<int64_t>(contents.size());
    ASSERT_GE(last, acknowledged);
    ASSERT_EQ(last % 3, 1);
    for (int64_t i = 1; i < last; ++i) {
      ASSERT_EQ(std::atoll(contents[i].c_str()), (i - 1) / 3 * 3 + 1) << i;
    }
  }
}

TEST(StateStoreAddressTest, NamesOneOfTheKinds) {
  for (const std::string address :
       {"", "sqlite:", "http://x", "postgres://host/db", "redis://", "redis://:6379",
        "redis://h:", "redis://h:0", "redis://h:65536", "redis://h:1x", "redis://h/x",
        "redis://h:1/-1", "redis://[::1", "redis+unix://", "redis+unix:///x?db=y", "REDIS://h"}) {
    EXPECT_EQ(OpenStateStore(address).status().code(), StatusCode::kInvalidArgument) << address;
  }
  const Status secret = OpenStateStore("redis://user:pass@host").status();
  ExpectError(secret, StatusCode::kInvalidArgument, "CVXQ_REDIS_PASSWORD");
  EXPECT_EQ(secret.message().find("pass@"), std::string::npos);
  TempFolder folder;
  EXPECT_TRUE(OpenStateStore(folder.File("plain.db")).ok());
  EXPECT_TRUE(OpenStateStore("sqlite:" + folder.File("named.db")).ok());
  EXPECT_TRUE(std::filesystem::exists(folder.File("plain.db")));
  EXPECT_TRUE(std::filesystem::exists(folder.File("named.db")));
}

}  // namespace
}  // namespace cvxq
