// Stopping one piece of work, and listening to its progress.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "gtest/gtest.h"

namespace cvxq {
namespace {

TEST(StopScope, StopsItsThreadAndItsPoolsAlone) {
  std::atomic<bool> stop = false;
  ThreadPool outside(3);
  const auto stopped = [](ThreadPool& pool) {
    std::atomic<int> count = 0;
    pool.ParallelFor(64, [&](int64_t) { count += Interrupted() ? 1 : 0; });
    return count.load();
  };
  {
    const StopScope scope(&stop);
    ThreadPool inside(3);
    EXPECT_FALSE(Interrupted());
    EXPECT_EQ(stopped(inside), 0);
    stop = true;
    EXPECT_TRUE(Interrupted());
    EXPECT_EQ(CheckInterrupted().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(stopped(inside), 64);
    bool elsewhere = true;
    std::thread([&] { elsewhere = Interrupted(); }).join();
    EXPECT_FALSE(elsewhere);
    std::thread([&] { EXPECT_EQ(stopped(outside), 0); }).join();
    {
      const StopScope none(nullptr);
      EXPECT_FALSE(Interrupted());
    }
    EXPECT_EQ(StopScope::Current(), &stop);
  }
  EXPECT_FALSE(Interrupted());
  EXPECT_EQ(StopScope::Current(), nullptr);
}

TEST(ProgressListener, IsToldEverythingInAnyMode) {
  std::vector<std::string> told;
  ProgressOptions options;
  options.mode = ProgressMode::kQuiet;
  options.listener = [&](const ProgressUpdate& update) {
    constexpr const char* kNames[] = {"start", "advance", "done", "note"};
    told.push_back(std::string(kNames[static_cast<int>(update.kind)]) + " " +
                   std::string(update.phase) + " " + std::to_string(update.count) + "/" +
                   std::to_string(update.total) + " " + std::string(update.unit) + " " +
                   std::string(update.note));
  };
  {
    Progress progress(options);
    auto phase = progress.Start("code", 3, "linears");
    phase.Advance();
    progress.Note("hello");
    phase.Advance(2);
    phase.Done("good");
    auto dropped = progress.Start("more", 0, "steps");
  }
  const std::vector<std::string> expected = {
      "start code 0/3 linears ",   "advance code 1/3 linears ",  "note  0/0  hello",
      "advance code 3/3 linears ", "done code 3/3 linears good", "start more 0/0 steps "};
  EXPECT_EQ(told, expected);
}

}  // namespace
}  // namespace cvxq
