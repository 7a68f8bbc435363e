#include "storage/spill_store.h"

#include <signal.h>
#include <sys/resource.h>

#include <numeric>
#include <thread>

#include "gtest/gtest.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

std::vector<float> Ramp(int64_t size, float first) {
  std::vector<float> values(size);
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::vector<float> Read(const SpillStore& store, SpillStore::Handle handle) {
  std::vector<float> values(store.size(handle));
  EXPECT_TRUE(store.Get(handle, values).ok());
  return values;
}

TEST(SpillStoreTest, KeepsInMemoryUpToTheLimitAndTheRestOnDisk) {
  TempFolder folder;
  SpillStore store(folder.path(), 4000);
  const SpillStore::Handle a = *store.Put(Ramp(600, 0)), b = *store.Put(Ramp(600, 1000)),
                           c = *store.Put(Ramp(400, 2000)), d = *store.Put(Ramp(1, 3000));
  EXPECT_EQ(store.bytes_in_memory(), 4000);  // a and c; b did not fit
  EXPECT_EQ(store.bytes_on_disk(), 2404);
  EXPECT_EQ(Read(store, a), Ramp(600, 0));
  EXPECT_EQ(Read(store, b), Ramp(600, 1000));
  EXPECT_EQ(Read(store, c), Ramp(400, 2000));
  EXPECT_EQ(Read(store, d), Ramp(1, 3000));
  EXPECT_EQ(folder.Count(), 0);  // the file has no name: nothing is left whatever happens
}

TEST(SpillStoreTest, OverwritesInPlace) {
  TempFolder folder;
  SpillStore store(folder.path(), 400);
  const SpillStore::Handle memory = *store.Put(Ramp(100, 0)), disk = *store.Put(Ramp(100, 0)),
                           after = *store.Put(Ramp(100, 500));
  ASSERT_TRUE(store.Overwrite(memory, Ramp(100, 7)).ok());
  ASSERT_TRUE(store.Overwrite(disk, Ramp(100, 8)).ok());
  EXPECT_EQ(Read(store, memory), Ramp(100, 7));
  EXPECT_EQ(Read(store, disk), Ramp(100, 8));
  EXPECT_EQ(Read(store, after), Ramp(100, 500));
  EXPECT_EQ(store.bytes_on_disk(), 800);
}

TEST(SpillStoreTest, NothingIsFine) {
  TempFolder folder;
  SpillStore store(folder.path(), 0);
  const SpillStore::Handle empty = *store.Put({});
  EXPECT_EQ(store.size(empty), 0);
  EXPECT_TRUE(Read(store, empty).empty());
}

TEST(SpillStoreTest, ManyThreadsAtOnce) {
  TempFolder folder;
  SpillStore store(folder.path(), 50000);
  constexpr int kThreads = 4, kArrays = 50;
  std::array<std::vector<SpillStore::Handle>, kThreads> handles;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kArrays; ++i) {
        handles[t].push_back(*store.Put(Ramp(300 + i, static_cast<float>(10000 * t + i))));
        if (i % 3 == 0) {
          EXPECT_TRUE(store.Overwrite(handles[t][i], Ramp(300 + i, static_cast<float>(-i))).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < kThreads; ++t) {
    for (int i = 0; i < kArrays; ++i) {
      const float first = static_cast<float>(i % 3 == 0 ? -i : 10000 * t + i);
      EXPECT_EQ(Read(store, handles[t][i]), Ramp(300 + i, first));
    }
  }
}

TEST(SpillStoreTest, AMissingFolderIsNamed) {
  SpillStore store("/nonexistent/folder", 0);
  ExpectError(store.Put(Ramp(1, 0)).status(), absl::StatusCode::kNotFound, "/nonexistent/folder");
}

TEST(SpillStoreTest, AFullDiskIsAnErrorThatTellsWhatToDo) {
  TempFolder folder;
  SpillStore store(folder.path(), 0);
  // A limit on file sizes stands in for a full disk.
  rlimit old = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {4096, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = store.Put(Ramp(4096, 0)).status();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  signal(SIGXFSZ, old_handler);
  ExpectError(status, absl::StatusCode::kResourceExhausted, "fewer --samples");
  ExpectError(status, absl::StatusCode::kResourceExhausted, folder.path());
}

}  // namespace
}  // namespace cvxq
