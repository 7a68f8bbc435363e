#include "base/interrupt.h"

#include <signal.h>

#include <cstdlib>

#include "gtest/gtest.h"

namespace cvxq {
namespace {

// Signals are raised in child processes: the flag is for the life of a process.

TEST(InterruptDeathTest, FirstSignalSetsTheFlag) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EXIT(
        {
          InstallInterruptHandler();
          if (Interrupted() || !CheckInterrupted().ok()) std::exit(2);
          raise(signal);
          if (!Interrupted()) std::exit(3);
          const Status status = CheckInterrupted();
          if (!absl::IsCancelled(status) || status.message() != "interrupted") std::exit(4);
          std::exit(0);
        },
        testing::ExitedWithCode(0), "");
  }
}

TEST(InterruptDeathTest, SecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        InstallInterruptHandler();
        raise(SIGTERM);
        raise(SIGINT);
        std::exit(0);
      },
      testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace cvxq
