#include "tests/service/watch_storm.h"

#include "gtest/gtest.h"
#include "tests/service/test_service.h"

namespace cvxq {
namespace {

class WatchStormTest : public TestOfService {};

TEST_F(WatchStormTest, WatchersThatComeAndGoLoseAndRepeatNothing) {
  ScratchFolder scratch;
  const StatusOr<WatchStormReport> report =
      RunWatchStorm("sqlite:" + scratch.path() + "/jobs", scratch.path(), {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->lost, 0);
  EXPECT_EQ(report->repeated, 0);
  EXPECT_GT(report->events, 200);
}

}  // namespace
}  // namespace cvxq
