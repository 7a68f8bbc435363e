// Loops over tiles: each runs once, in any pool, from any thread.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace cvxq {
namespace {

TEST(ThreadPool, RunsEachTileOnce) {
  for (const int threads : {-1, 0, 1, 2, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), std::max(1, threads));
    for (const int64_t count : {0, 1, 2, 3, 1000}) {
      std::vector<int> runs(count, 0);
      pool.ParallelFor(count, [&](int64_t i) { ++runs[i]; });
      EXPECT_EQ(runs, std::vector<int>(count, 1)) << threads << " threads";
    }
  }
}

TEST(ThreadPool, IgnoresANegativeCount) {
  ThreadPool pool(2);
  pool.ParallelFor(-5, [](int64_t) { FAIL(); });
}

TEST(ThreadPool, HelpersTakePart) {
  ThreadPool pool(3);
  // Each tile waits until three threads are inside, so the loop ends only if all three come.
  std::atomic<int> inside = 0;
  std::mutex mutex;
  std::set<std::thread::id> ids;
  pool.ParallelFor(3, [&](int64_t) {
    ++inside;
    while (inside < 3) std::this_thread::yield();
    std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_TRUE(ids.contains(std::this_thread::get_id()));
}

TEST(ThreadPool, WhatTilesWroteIsSeenAfterwards) {
  ThreadPool pool(4);
  for (int round = 0; round < 500; ++round) {
    int64_t values[5] = {};
    pool.ParallelFor(5, [&](int64_t i) { values[i] = round + i; });
    for (int i = 0; i < 5; ++i) ASSERT_EQ(values[i], round + i);
  }
}

TEST(ThreadPool, ALoopInsideATileRunsOnItsThread) {
  ThreadPool pool(4), other(2);
  std::vector<int> runs(10 * 20, 0);
  pool.ParallelFor(10, [&](int64_t i) {
    const std::thread::id id = std::this_thread::get_id();
    ThreadPool& inner = i % 2 == 0 ? pool : other;
    inner.ParallelFor(20, [&](int64_t j) {
      ++runs[i * 20 + j];
      EXPECT_EQ(std::this_thread::get_id(), id);
    });
  });
  EXPECT_EQ(runs, std::vector<int>(200, 1));
}

TEST(ThreadPool, LoopsOfSeveralThreadsTakeTurns) {
  ThreadPool pool(2);
  std::vector<std::vector<int>> runs(4, std::vector<int>(300, 0));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) {
        pool.ParallelFor(300, [&](int64_t i) { ++runs[t][i]; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& list : runs) EXPECT_EQ(list, std::vector<int>(300, 50));
}

TEST(AvailableProcessors, IsPositive) { EXPECT_GE(AvailableProcessors(), 1); }

}  // namespace
}  // namespace cvxq
