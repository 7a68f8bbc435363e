// What is particular to the store in a SQLite file: the file, a failing disk, damage.
#include "service/store/sqlite_store.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <set>
#include <thread>

#include "tests/service/child_process.h"
#include "tests/service/store_backends.h"

namespace {

// What the disk does to this process from now on; see the two functions below.
std::atomic<bool> disk_full = false, flush_fails = false;
std::atomic<int> flushes = 0, flush_pause_us = 0;

}  // namespace

// SQLite finds these before those of the C library.
extern "C" ssize_t pwrite64(int file, const void* bytes, size_t size, off64_t offset) {
  if (disk_full) {
    errno = ENOSPC;
    return -1;
  }
  return syscall(SYS_pwrite64, file, bytes, size, offset);
}

extern "C" int fdatasync(int file) {
  if (flush_fails) {
    errno = EIO;
    return -1;
  }
  ++flushes;
  if (flush_pause_us > 0) usleep(static_cast<useconds_t>(flush_pause_us));
  return static_cast<int>(syscall(SYS_fdatasync, file));
}

namespace cvxq {
namespace {

using absl::StatusCode;
using Names = std::vector<std::string>;

class SqliteStoreTest : public testing::Test {
 protected:
  ~SqliteStoreTest() override { disk_full = flush_fails = false; }

  std::unique_ptr<StateStore> Open() {
    StatusOr<std::unique_ptr<StateStore>> store = OpenSqliteStore(path_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  // A store with a log "log" of one record, and its epoch.
  std::unique_ptr<StateStore> OpenWithLog() {
    std::unique_ptr<StateStore> store = Open();
    epoch_ = *store->ClaimEpoch("test");
    EXPECT_TRUE(store->CreateLog(epoch_, "log", "", "", {"a"}).ok());
    return store;
  }
  void Sql(const std::string& sql) {
    sqlite3* connection = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &connection), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(connection, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(connection);
  }

  TempFolder folder_;
  const std::string path_ = folder_.File("state.db");
  int64_t epoch_ = 0;
};

TEST_F(SqliteStoreTest, OnlyTheOwnerReadsItsFiles) {
  const std::unique_ptr<StateStore> store = OpenWithLog();
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    struct stat info;
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 3);
}

TEST_F(SqliteStoreTest, NoNameIsSpecial) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder_.path());
  for (const std::string name : {":memory:", "file:x?mode=memory"}) {
    EXPECT_TRUE(OpenSqliteStore(name).ok());
    EXPECT_TRUE(std::filesystem::exists(folder_.File(name))) << name;
  }
  std::filesystem::current_path(before);
}

TEST_F(SqliteStoreTest, SaysWhyAFileCannotBeUsed) {
  ExpectError(OpenSqliteStore(folder_.File("none/state.db")).status(), StatusCode::kNotFound,
              "none/state.db");
  ExpectError(OpenSqliteStore(folder_.path()).status(), StatusCode::kFailedPrecondition,
              "no regular file");
  Put(path_, std::string(5000, 'x'));
  ExpectError(OpenSqliteStore(path_).status(), StatusCode::kDataLoss, path_);
  EXPECT_EQ(Slurp(path_), std::string(5000, 'x'));
}

TEST_F(SqliteStoreTest, KeepsToFilesOfItsOwnVersion) {
  OpenWithLog().reset();
  Sql("PRAGMA user_version = 2");
  ExpectError(OpenSqliteStore(path_).status(), StatusCode::kFailedPrecondition, "a newer cvxq");
  Sql("PRAGMA user_version = 1");
  EXPECT_EQ(Contents(*Open(), "log"), Names({"a"}));
  Sql("PRAGMA application_id = 0");
  ExpectError(OpenSqliteStore(path_).status(), StatusCode::kFailedPrecondition,
              "another program's");
}

TEST_F(SqliteStoreTest, FindsDamageWhenItOpens) {
  {
    const std::unique_ptr<StateStore> store = OpenWithLog();
    ASSERT_TRUE(store->Append(epoch_, "log", 1, Names(100, std::string(3000, 'x'))).ok());
  }
  const std::string whole = Slurp(path_);
  // Whatever bytes are broken: an error that names the file, or a store whose log has no hole.
  int refused = 0;
  for (size_t page = 0; page * 4096 < whole.size(); page += 7) {
    std::string broken = whole;
    broken.replace(page * 4096, 512, std::string(512, '\x5a'));
    Put(path_, broken);
    const StatusOr<std::unique_ptr<StateStore>> store = OpenSqliteStore(path_);
    if (!store.ok()) {
      ExpectError(store.status(), StatusCode::kDataLoss, path_);
      ++refused;
      continue;
    }
    const StatusOr<std::vector<LogRecord>> records = (*store)->Read("log", 0, 1000);
    if (records.ok()) {
      EXPECT_EQ(records->size(), 101u);
    }
  }
  EXPECT_GT(refused, 3);
  Put(path_, whole.substr(0, whole.size() / 2));
  ExpectError(OpenSqliteStore(path_).status(), StatusCode::kDataLoss, path_);
}

TEST_F(SqliteStoreTest, AHoleInALogIsDataLoss) {
  {
    const std::unique_ptr<StateStore> store = OpenWithLog();
    ASSERT_TRUE(store->Append(epoch_, "log", 1, {"b", "c"}).ok());
  }
  Sql("DELETE FROM records WHERE revision = 2");
  ExpectError(Open()->Read("log", 0, 10).status(), StatusCode::kDataLoss, path_);
  Sql("DELETE FROM records");
  const std::unique_ptr<StateStore> store = Open();
  ExpectError(store->Read("log", 0, 10).status(), StatusCode::kDataLoss, "\"log\"");
  ExpectError(store->Append(epoch_, "log", 0, {"x"}).status(), StatusCode::kDataLoss, "\"log\"");
}

TEST_F(SqliteStoreTest, EveryWriteIsFlushed) {
  const std::unique_ptr<StateStore> store = OpenWithLog();
  int64_t last = 1;
  const std::vector<std::function<bool()>> writes = {
      [&] { return (epoch_ = *store->ClaimEpoch("test")) > 0; },
      [&] { return store->CreateLog(epoch_, "log2", "", "", {"a"}).ok(); },
      [&] { return (last = *store->Append(epoch_, "log", last, {"b"})) == 2; },
      [&] { return store->Compact(epoch_, "log", last, "ab").ok(); },
      [&] { return store->DeleteLog(epoch_, "log2").ok(); }};
  for (const std::function<bool()>& write : writes) {
    const int before = flushes;
    EXPECT_TRUE(write());
    EXPECT_GT(flushes, before);
  }
}

TEST_F(SqliteStoreTest, WritesAtTheSameTimeShareFlushes) {
  constexpr int kThreads = 16, kEach = 25;
  const std::unique_ptr<StateStore> store = OpenWithLog();
  for (int t = 0; t < kThreads; ++t) {
    ASSERT_TRUE(store->CreateLog(epoch_, absl::StrCat("log", t), "", "", {"0"}).ok());
  }
  flush_pause_us = 2000;  // a disk that takes its time
  const int before = flushes;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const std::string name = absl::StrCat("log", t);
      for (int64_t i = 1; i <= kEach; ++i) {
        // Refusals of one write leave the others of its group alone.
        if (i % 5 == 0) {
          EXPECT_TRUE(absl::IsAborted(store->Append(epoch_, name, i + 1, {"x"}).status()));
        }
        EXPECT_EQ(*store->Append(epoch_, name, i, {absl::StrCat(i)}), i + 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  flush_pause_us = 0;
  EXPECT_LT(flushes - before, kThreads * kEach / 2);
  Names expected;
  for (int i = 0; i <= kEach; ++i) expected.push_back(absl::StrCat(i));
  for (int t = 0; t < kThreads; ++t) {
    EXPECT_EQ(Contents(*store, absl::StrCat("log", t)), expected);
  }
}

// Writes that share a flush share its failure, and are all undone.
TEST_F(SqliteStoreTest, AFullDiskRefusesAllThatWait) {
  const std::unique_ptr<StateStore> store = OpenWithLog();
  disk_full = true;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      ExpectError(store->CreateLog(epoch_, absl::StrCat("log", t), "", "", {"b"}).status(),
                  StatusCode::kResourceExhausted, "free some space");
    });
  }
  for (std::thread& thread : threads) thread.join();
  disk_full = false;
  EXPECT_EQ(*store->ListLogs("", "", 10), Names({"log"}));
  EXPECT_TRUE(store->CreateLog(epoch_, "log1", "", "", {"b"})->created);
}

TEST_F(SqliteStoreTest, AFailedFlushStopsTheStore) {
  const std::unique_ptr<StateStore> store = OpenWithLog();
  flush_fails = true;
  ExpectError(store->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable, path_);
  flush_fails = false;  // the disk works again: nobody knows what it holds
  ExpectError(store->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable,
              "check the disk");
  EXPECT_EQ(store->Read("log", 0, 10).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store->CurrentEpoch().status().code(), StatusCode::kUnavailable);
  // Opened anew it is what the disk does hold: with the record or without.
  const Names contents = Contents(*Open(), "log");
  EXPECT_TRUE(contents == Names({"a"}) || contents == Names({"a", "b"}));
}

TEST_F(SqliteStoreTest, AFullDiskWritesNothingAndPasses) {
  const std::unique_ptr<StateStore> store = OpenWithLog();
  disk_full = true;
  ExpectError(store->Append(epoch_, "log", 1, {"b", "c"}).status(), StatusCode::kResourceExhausted,
              path_);
  ExpectError(store->CreateLog(epoch_, "log2", "", "", {"b"}).status(),
              StatusCode::kResourceExhausted, "free some space");
  EXPECT_EQ(Contents(*store, "log"), Names({"a"}));
  disk_full = false;
  EXPECT_EQ(*store->Append(epoch_, "log", 1, {"b", "c"}), 3);
  EXPECT_EQ(*store->ListLogs("", "", 10), Names({"log"}));
}

// A limit that the system sets, of the size of files: no error that passes.
TEST_F(SqliteStoreTest, AWriteThatTheSystemRefusesStopsTheStoreAndLosesNothing) {
  ChildProcess child([&](const ChildProcess::Link& parent) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {.rlim_cur = 200'000, .rlim_max = 200'000};
    setrlimit(RLIMIT_FSIZE, &limit);
    auto store = OpenSqliteStore(path_);
    const int64_t epoch = *(*store)->ClaimEpoch("child");
    if (!(*store)->CreateLog(epoch, "log", "", "", {"0"}).ok()) _exit(1);
    for (int64_t last = 1;;) {
      const StatusOr<int64_t> done = (*store)->Append(epoch, "log", last, {std::string(999, 'x')});
      if (!done.ok()) {
        parent.Report(-static_cast<int64_t>(done.status().code()));
        parent.Report(-static_cast<int64_t>((*store)->CurrentEpoch().status().code()));
        return;
      }
      parent.Report(last = *done);
    }
  });
  int64_t last = 0, number = 0;
  while ((number = child.Next().value_or(0)) > 0) last = number;
  EXPECT_EQ(number, -static_cast<int64_t>(StatusCode::kUnavailable));
  EXPECT_EQ(child.Next(), -static_cast<int64_t>(StatusCode::kUnavailable));
  EXPECT_GT(last, 10);
  EXPECT_GE(static_cast<int64_t>(Contents(*Open(), "log").size()), last);
}

TEST_F(SqliteStoreTest, AFileThatHasGoneIsNotWrittenTo) {
  for (const bool replaced : {false, true}) {
    const std::unique_ptr<StateStore> store = OpenWithLog();
    std::filesystem::rename(path_, folder_.File("moved.db"));
    for (const char* end : {"-wal", "-shm"}) std::filesystem::remove(path_ + end);
    if (replaced) OpenWithLog();
    ExpectError(store->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable,
                "moved or deleted");
    std::filesystem::remove(path_);
  }
}

TEST_F(SqliteStoreTest, OpenedByManyAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int64_t> sum = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      const std::unique_ptr<StateStore> store = Open();
      if (store != nullptr) sum += *store->ClaimEpoch("thread");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 36);  // 1 + ... + 8: nobody got an epoch that another one had
}

// A crash of the machine may lose any end of the write-ahead log that was not flushed.
TEST_F(SqliteStoreTest, AnyBeginningOfTheWriteAheadLogIsASoundStore) {
  const std::unique_ptr<StateStore> store = OpenWithLog();
  for (int64_t last = 1; last < 31; last += 3) {
    ASSERT_TRUE(store->Append(epoch_, "log", last, Names(3, std::string(700, 'x'))).ok());
  }
  ASSERT_TRUE(store->Compact(epoch_, "log", 5, "snapshot").ok());
  const std::string data = Slurp(path_), log = Slurp(path_ + "-wal");
  const std::string copy = folder_.File("copy.db");
  // Anywhere, and around the ends of its header (32 bytes) and of some frames (24 and a page).
  std::set<size_t> sizes = {0, log.size()};
  for (size_t size = 0; size <= log.size(); size += log.size() / 97) sizes.insert(size);
  for (size_t end = 32; end < log.size(); end += 5 * (24 + 4096)) {
    sizes.insert({end - 1, end, end + 1, end + 24});
  }
  size_t most = 0;
  for (const size_t size : sizes) {
    std::filesystem::remove(copy + "-shm");
    Put(copy, data);
    Put(copy + "-wal", log.substr(0, size));
    const StatusOr<std::unique_ptr<StateStore>> cut = OpenSqliteStore(copy);
    ASSERT_TRUE(cut.ok()) << size << ": " << cut.status();
    const StatusOr<std::vector<LogRecord>> records = (*cut)->Read("log", 0, 1000);
    if (!records.ok()) {
      EXPECT_EQ(records.status().code(), StatusCode::kNotFound) << records.status();
      EXPECT_EQ(most, 0u);
      continue;
    }
    // All of the first calls, none of the later ones.
    ASSERT_EQ(records->back().revision % 3, 1) << size;
    const bool compacted = records->front().bytes == "snapshot";
    ASSERT_EQ(records->front().revision, compacted ? 5 : 1);
    ASSERT_EQ(static_cast<int64_t>(records->size()),
              records->back().revision - records->front().revision + 1);
    ASSERT_GE(static_cast<size_t>(records->back().revision), most);
    most = static_cast<size_t>(records->back().revision);
  }
  EXPECT_EQ(most, 31u);
}

}  // namespace
}  // namespace cvxq
