#include "base/progress.h"

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cvxq {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// A Progress with a hand-driven clock that keeps each write apart.
struct Fixture {
  explicit Fixture(ProgressMode mode) {
    options.mode = mode;
    options.unicode = false;
    options.sink = [this](std::string_view text) { writes.emplace_back(text); };
    options.clock = [this] { return now; };
    options.width = [this] { return width; };
  }
  ProgressOptions options;
  std::vector<std::string> writes;
  double now = 1000;
  int width = 100;
};

TEST(Progress, LinesComeEveryTenSecondsAndAtTheEnd) {
  Fixture f(ProgressMode::kLines);
  Progress progress(f.options);
  auto phase = progress.Start("statistics", 128, "sequences");
  for (int i = 0; i < 128; ++i) {
    f.now += 0.25;
    phase.Advance();
  }
  phase.Done("2.1 GiB");
  EXPECT_THAT(f.writes, ElementsAre("statistics     31 %    40/128 sequences   0:10   0:22 left\n",
                                    "statistics     62 %    80/128 sequences   0:20   0:12 left\n",
                                    "statistics     93 %   120/128 sequences   0:30   0:02 left\n",
                                    "statistics    128 sequences in 32.0 s, 2.1 GiB\n"));
}

TEST(Progress, QuietSaysNothing) {
  Fixture f(ProgressMode::kQuiet);
  Progress progress(f.options);
  auto phase = progress.Start("statistics", 2, "sequences");
  f.now += 100;
  phase.Advance(2);
  progress.Note("note");
  phase.Done();
  EXPECT_THAT(f.writes, IsEmpty());
}

TEST(Progress, BarIsRedrawnInPlace) {
  Fixture f(ProgressMode::kBar);
  Progress progress(f.options);
  auto phase = progress.Start("coding", 4, "layers");
  f.now += 2;
  phase.Advance();
  f.now += 62;
  phase.Advance(3);
  phase.Done();
  EXPECT_THAT(
      f.writes,
      ElementsAre("\rcoding        ----------------------------------------   0 %   0/4 layers   "
                  "0:00\x1b[K",
                  "\rcoding        ##########------------------------------  25 %   1/4 layers   "
                  "0:02   0:06 left\x1b[K",
                  "\rcoding        ######################################## 100 %   4/4 layers   "
                  "1:04\x1b[K",
                  "\r\x1b[Kcoding        4 layers in 1 min 04 s\n"));
}

TEST(Progress, BarIsDrawnAtMostTenTimesASecond) {
  Fixture f(ProgressMode::kBar);
  Progress progress(f.options);
  auto phase = progress.Start("coding", 4096, "layers");
  for (int i = 0; i < 2048; ++i) {
    f.now += 1.0 / 1024;  // exact, so that the count is too
    phase.Advance();
  }
  // The first drawing, then one every 103 steps of 1/1024 s.
  EXPECT_THAT(f.writes, SizeIs(1 + 2048 / 103));
}

TEST(Progress, BarFitsNarrowTerminals) {
  for (int width = 0; width < 130; ++width) {
    Fixture f(ProgressMode::kBar);
    f.width = width;
    Progress progress(f.options);
    auto phase = progress.Start("statistics", 128, "sequences");
    f.now += 7200;
    phase.Advance(32);
    for (std::string line : f.writes) {
      ASSERT_EQ(line.substr(0, 1), "\r");
      ASSERT_EQ(line.substr(line.size() - 3), "\x1b[K");
      EXPECT_LT(line.size() - 4, std::max(width, 1)) << line;
    }
  }
}

TEST(Progress, NoteStandsAboveTheBar) {
  Fixture f(ProgressMode::kBar);
  f.width = 60;
  Progress progress(f.options);
  progress.Note("before");
  auto phase = progress.Start("coding", 0, "layers");
  progress.Note("layer 3 has no inputs");
  EXPECT_THAT(f.writes,
              ElementsAre("before\n", "\rcoding        0 layers   0:00\x1b[K",
                          "\r\x1b[Klayer 3 has no inputs\ncoding        0 layers   0:00"));
}

TEST(Progress, NotesAreKeptForReportsWhateverTheMode) {
  Fixture f(ProgressMode::kQuiet);
  Progress progress(f.options);
  progress.Note("before");
  auto phase = progress.Start("coding", 0, "layers");
  progress.Note("layer 3 has no inputs");
  EXPECT_THAT(progress.notes(), ElementsAre("before", "layer 3 has no inputs"));
  EXPECT_TRUE(f.writes.empty());
}

TEST(Progress, FiguresAreForTheListenerAlone) {
  Fixture f(ProgressMode::kLines);
  Progress(f.options).Figure("ratio", 0.5);  // nobody listens
  std::vector<std::string> told;
  f.options.listener = [&](const ProgressUpdate& update) {
    if (update.kind != ProgressUpdate::Kind::kFigure) return;
    told.push_back(absl::StrCat(std::string(update.note), " ", update.value));
  };
  Progress(f.options).Figure("ratio", 0.25);
  EXPECT_THAT(told, ElementsAre("ratio 0.25"));
  EXPECT_THAT(f.writes, IsEmpty());
}

TEST(Progress, PhaseDroppedOnErrorLeavesACleanLine) {
  Fixture f(ProgressMode::kBar);
  Progress progress(f.options);
  { auto phase = progress.Start("coding", 0, "layers"); }
  EXPECT_THAT(f.writes, ElementsAre(HasSubstr("coding"), "\r\x1b[K"));
}

TEST(Progress, CountsOfBytesAreSizes) {
  Fixture f(ProgressMode::kLines);
  Progress progress(f.options);
  auto phase = progress.Start("writing", 4 << 20, "bytes");
  f.now += 10;
  phase.Advance(1 << 20);
  phase.Done("model.safetensors");
  EXPECT_THAT(f.writes, ElementsAre("writing        25 %   1.00 MiB/4.00 MiB   0:10   0:30 left\n",
                                    "writing       1.00 MiB in 10.0 s, model.safetensors\n"));
}

TEST(Progress, NextPhaseEndsTheOneBefore) {
  Fixture f(ProgressMode::kLines);
  Progress progress(f.options);
  auto first = progress.Start("first", 1, "steps");
  auto second = progress.Start("second", 1, "steps");
  first.Advance();  // no longer counts
  first.Done();
  second.Done();
  EXPECT_THAT(f.writes, ElementsAre("second        0.00 s\n"));
}

TEST(Progress, ThreadsMayAdvanceTogether) {
  Fixture f(ProgressMode::kBar);
  f.options.heartbeat = true;
  Progress progress(f.options);
  auto phase = progress.Start("coding", 4000, "layers");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) phase.Advance();
    });
  }
  for (std::thread& thread : threads) thread.join();
  phase.Done();
  EXPECT_EQ(f.writes.back(), "\r\x1b[Kcoding        4000 layers in 0.00 s\n");
}

}  // namespace
}  // namespace cvxq
