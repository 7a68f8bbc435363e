// Writes that share a commit: how many, in which order, and whose outcome is whose.
#include "service/store/write_group.h"

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

namespace cvxq {
namespace {

// The outcome of write i is error i; 0 is OK.
Status Outcome(int i) { return i == 0 ? absl::OkStatus() : absl::InternalError(std::to_string(i)); }

TEST(WriteGroupTest, WritesThatWaitShareACommit) {
  std::vector<size_t> sizes;
  std::atomic<WriteGroup*> self = nullptr;
  // The first commit goes on when all others wait for it.
  constexpr size_t kWriters = 10, kMost = 6;
  const auto commit = [&](const std::vector<const WriteGroup::Write*>& writes) {
    while (sizes.empty() && self.load()->waiting() < kWriters - 1) std::this_thread::yield();
    sizes.push_back(writes.size());
    std::vector<Status> outcomes;
    for (const WriteGroup::Write* write : writes) outcomes.push_back((*write)());
    return outcomes;
  };
  WriteGroup group(commit, kMost);
  self = &group;
  std::vector<Status> outcomes(kWriters);
  std::vector<std::thread> writers;
  std::atomic<int> done = 0;
  for (size_t i = 0; i < kWriters; ++i) {
    writers.emplace_back([&, i] {
      outcomes[i] = group.Do([&, i] {
        ++done;
        return Outcome(static_cast<int>(i));
      });
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(sizes, (std::vector<size_t>{1, 6, 3}));
  EXPECT_EQ(done, 10);
  for (size_t i = 0; i < kWriters; ++i) EXPECT_EQ(outcomes[i], Outcome(static_cast<int>(i)));
  EXPECT_EQ(group.waiting(), 0u);
}

TEST(WriteGroupTest, AWriteAloneIsDoneAtOnce) {
  int commits = 0;
  WriteGroup group(
      [&](const std::vector<const WriteGroup::Write*>& writes) {
        ++commits;
        return std::vector<Status>{(*writes.at(0))()};
      },
      4);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(group.Do([&] { return Outcome(i); }), Outcome(i));
  EXPECT_EQ(commits, 5);
}

}  // namespace
}  // namespace cvxq
