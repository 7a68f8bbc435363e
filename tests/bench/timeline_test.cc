// The simulation behind bench_scaling, on cases that can be worked out by hand.
#include "bench/scaling/timeline.h"

#include "gtest/gtest.h"

namespace cvxq {
namespace {

TimelineOp Work(double seconds) { return {TimelineOp::Kind::kWork, seconds, 0}; }
TimelineOp Send(int64_t id) { return {TimelineOp::Kind::kSend, 0, id}; }
TimelineOp Receive(int64_t id, double seconds) { return {TimelineOp::Kind::kReceive, seconds, id}; }
TimelineOp Meet(int64_t id, double seconds) { return {TimelineOp::Kind::kMeet, seconds, id}; }

TEST(TimelineTest, AReceiverWaitsForItsMessageAndTakesItIn) {
  const auto timeline = RunTimeline(
      {{}, {}}, {{0, {Work(2), Send(0), Work(5)}}, {1, {Work(1), Receive(0, 0.5), Work(1)}}});
  ASSERT_TRUE(timeline.ok()) << timeline.status();
  EXPECT_DOUBLE_EQ(timeline->seconds, 7);
  EXPECT_DOUBLE_EQ(timeline->busy[1], 2.5);
  EXPECT_DOUBLE_EQ(timeline->work, 9);
  EXPECT_DOUBLE_EQ(timeline->transfer, 0.5);
}

TEST(TimelineTest, ProcessesShareProcessors) {
  // Three on two processors of which each gives nine tenths beside a busy one: all at 0.6 until the
  // shortest ends after 1 / 0.6, the others at 0.9, the last alone at 1.
  const auto timeline = RunTimeline({{2, 0.9}}, {{0, {Work(1)}}, {0, {Work(2)}}, {0, {Work(3)}}});
  ASSERT_TRUE(timeline.ok()) << timeline.status();
  EXPECT_NEAR(timeline->seconds, 1 / 0.6 + 1 / 0.9 + 1, 1e-9);
}

TEST(TimelineTest, MeetingsWaitForTheLastAndTakeTheirTime) {
  const auto timeline = RunTimeline(
      {{}, {}}, {{0, {Work(1), Meet(0, 0.25), Work(1)}}, {1, {Work(3), Meet(0, 0.25)}}});
  ASSERT_TRUE(timeline.ok()) << timeline.status();
  EXPECT_DOUBLE_EQ(timeline->meetings[0], 3.25);
  EXPECT_DOUBLE_EQ(timeline->seconds, 4.25);
}

TEST(TimelineTest, ALostProcessDoesItsPartAgainAndTheOthersKeepTheirs) {
  const std::vector<TimelineProcess> processes = {
      {0, {Work(4), Send(0), Meet(0, 0)}}, {1, {Receive(0, 1), Work(2), Meet(0, 0), Work(1)}}};
  // Lost at 6, half a second before... its work of 2 is half done: receive and work begin again
  // at 9.
  const auto timeline = RunTimeline({{}, {}}, processes, {{1, 6, 3}});
  ASSERT_TRUE(timeline.ok()) << timeline.status();
  EXPECT_DOUBLE_EQ(timeline->meetings[0], 12);
  EXPECT_DOUBLE_EQ(timeline->seconds, 13);
  // After the meeting, what was met is over.
  const auto late = RunTimeline({{}, {}}, processes, {{1, 7.5, 1}});
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_DOUBLE_EQ(late->meetings[0], 7);
  EXPECT_DOUBLE_EQ(late->seconds, 8.5 + 3 + 1);
}

TEST(TimelineTest, WhoWaitsForEverIsTold) {
  EXPECT_TRUE(absl::IsFailedPrecondition(
      RunTimeline({{}, {}}, {{0, {Receive(0, 1), Send(1)}}, {1, {Receive(1, 1), Send(0)}}})
          .status()));
}

}  // namespace
}  // namespace cvxq
