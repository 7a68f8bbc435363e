// Jobs that are interrupted and begun again: they go on from where they were, give the same bytes,
// and leave nothing behind.
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/pipeline/resume_job.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

using ResumeTest = ResumeJob;

TEST_F(ResumeTest, GoesOnFromEveryStepWithAnyNumberOfStages) {
  struct Place {
    std::string phase;
    int64_t count;
    bool gradients, moments;  // whether the second run has to do them
  };
  const std::vector<Place> places = {
      {"gradients", 64, true, true},     {"gradients", 128, true, true},
      {"input moments", 0, false, true}, {"input moments", 3, false, true},
      {"foresee", 10, false, false},     {"survey", 3, false, false},
      {"code", 5, false, false},         {"code (pass 2)", 9, false, false},

  };
  for (size_t i = 0; i < places.size(); ++i) {
    const Place& place = places[i];
    SCOPED_TRACE(absl::StrCat(place.phase, " ", place.count));
    options_.workers = static_cast<int64_t>(i % 3 + 1);
    ASSERT_NO_FATAL_FAILURE(StopIn(place.phase, place.count));
    ASSERT_TRUE(fs::exists(options_.state));
    options_.workers = static_cast<int64_t>((i + 1) % 4 + 1);
    ASSERT_NO_FATAL_FAILURE(ExpectFinished());
    EXPECT_THAT(notes_, Contains(HasSubstr("going on behind")));
    EXPECT_EQ(std::count(phases_.begin(), phases_.end(), "gradients"), place.gradients);
    EXPECT_EQ(std::count(phases_.begin(), phases_.end(), "input moments"), place.moments);
  }
}

// Sums of parts of the waves that are over are kept apart from those of the part under way.
TEST_F(ResumeTest, GoesOnFromTheMiddleOfAPart) {
  options_.calibration.samples = 320;  // five waves in four parts, the last one of two
  options_.bits = 2.5;
  QuantizeOptions undisturbed = options_;
  undisturbed.state.clear();
  Progress progress(ProgressMode::kQuiet);
  const auto expected = Quantize(undisturbed, progress);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_NO_FATAL_FAILURE(StopIn("gradients", 256));
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(notes_, Contains(HasSubstr("going on behind 4 waves of gradients")));
  EXPECT_EQ(report->sha256, expected->sha256);
}

TEST_F(ResumeTest, GoesOnWithAnyNumberOfReplicas) {
  struct Place {
    std::string phase;
    int64_t count, before, after;  // replicas
    bool gradients, moments;       // whether the second run has to do them
  };
  const std::vector<Place> places = {
      {"gradients", 128, 1, 2, true, true},  // sums of one pipeline are of no use to two
      {"input moments", 2, 2, 4, false, true},
      {"code", 5, 1, 2, false, false},
      {"code (pass 2)", 9, 4, 1, false, false}};
  for (const Place& place : places) {
    SCOPED_TRACE(absl::StrCat(place.phase, " ", place.count, ": ", place.before, " replicas, then ",
                              place.after));
    options_.workers = 4;
    options_.replicas = place.before;
    ASSERT_NO_FATAL_FAILURE(StopIn(place.phase, place.count));
    options_.replicas = place.after;
    ASSERT_NO_FATAL_FAILURE(ExpectFinished());
    EXPECT_EQ(std::count(phases_.begin(), phases_.end(), "gradients"), place.gradients);
    EXPECT_EQ(std::count(phases_.begin(), phases_.end(), "input moments"), place.moments);
  }
}

// The last stage finds all its moments in the state, and asks the one before for nothing.
TEST_F(ResumeTest, AStageThatHasAllIsNotWaitedFor) {
  options_.calibration.samples = 400;  // six waves and a part: more than may wait
  ASSERT_NO_FATAL_FAILURE(StopIn("foresee", 1));
  const std::string kept = scratch_.path() + "/kept";
  fs::rename(options_.state, kept);
  ASSERT_NO_FATAL_FAILURE(StopIn("input moments", 1));
  int copied = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kept)) {
    const std::string path = fs::relative(entry.path(), kept);
    const bool last = path.find("/block/00002/moments") != std::string::npos ||
                      path.find("/block/00003/moments") != std::string::npos;
    if (!last) continue;
    fs::create_directories(fs::path(options_.state + "/" + path).parent_path());
    copied += fs::copy_file(entry.path(), options_.state + "/" + path,
                            fs::copy_options::overwrite_existing);
  }
  ASSERT_EQ(copied, 2);
  options_.workers = 2;
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(std::count(phases_.begin(), phases_.end(), "input moments"), 1);
}

TEST_F(ResumeTest, AWholeRunLeavesNothing) { ExpectFinished(); }

TEST_F(ResumeTest, InterruptedAgainAndAgain) {
  // Each run is stopped as it begins one phase more than the run before.
  bool ended = false;
  int runs = 0;
  for (; runs < 100 && !ended; ++runs) {
    int seen = 0;
    const auto report = Run([&](const ProgressUpdate& update) {
      return update.kind == ProgressUpdate::Kind::kStart && ++seen == runs + 2;
    });
    ended = report.ok();
    if (ended) {
      EXPECT_EQ(report->sha256, Expected());
    } else {
      ASSERT_TRUE(absl::IsCancelled(report.status())) << report.status();
    }
  }
  EXPECT_TRUE(ended);
  EXPECT_GT(runs, 3);
}

TEST_F(ResumeTest, NothingIsWrittenBeforeItIsTime) {
  options_.save_seconds = 3600;
  ASSERT_NO_FATAL_FAILURE(StopIn("code", 5));
  EXPECT_FALSE(fs::exists(options_.state));
}

TEST_F(ResumeTest, AnotherJobsStateIsNotUsed) {
  ASSERT_NO_FATAL_FAILURE(StopIn("code", 5));
  options_.bits = 3;
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(notes_, Contains(HasSubstr("of another job or model")));
  EXPECT_THAT(phases_, Contains("gradients"));
  EXPECT_EQ(report->sha256, Expected());  // of that job
}

TEST_F(ResumeTest, ForeignFilesAreNotTouched) {
  fs::create_directories(options_.state + "/commit");
  std::ofstream(options_.state + "/commit/letter.txt") << "dear";
  ASSERT_NO_FATAL_FAILURE(StopIn("code", 5));
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(*ReadFile(options_.state + "/commit/letter.txt"), "dear");
  EXPECT_EQ(StateFiles().size(), 1);
}

// Whatever becomes of one file of the state, the job comes to the same end.
TEST_F(ResumeTest, DamagedAndMissingFiles) {
  ASSERT_NO_FATAL_FAILURE(StopIn("code", 5));
  const std::string kept = scratch_.path() + "/kept";
  fs::copy(options_.state, kept, fs::copy_options::recursive);
  const size_t count = StateFiles().size();
  ASSERT_GT(count, 5u);
  int went_on = 0;
  for (size_t i = 0; i < count; i += 2) {
    fs::remove_all(options_.state);
    fs::copy(kept, options_.state, fs::copy_options::recursive);
    const std::string file = StateFiles()[i];
    const int how = static_cast<int>(i / 2 % 3);
    SCOPED_TRACE(absl::StrCat(how, " ", file));
    Damage(file, how);
    ASSERT_NO_FATAL_FAILURE(ExpectFinished());
    for (const std::string& note : notes_) went_on += note.find("going on behind") == 0;
  }
  EXPECT_LT(went_on, static_cast<int>(count / 2));
}

// Nobody looks for codes before they are needed: all steps before are skipped by then.
TEST_F(ResumeTest, CodesThatAreGoneAreMadeAgain) {
  options_.model = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
  options_.tune = 1;
  ASSERT_NO_FATAL_FAILURE(StopIn("tune", 0));
  for (const std::string& file : StateFiles()) {
    if (file.find("/block/00001/codes-") != std::string::npos) fs::remove(file);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectFinished());
  EXPECT_THAT(notes_, Contains(HasSubstr("done again")));
  EXPECT_THAT(phases_, Contains("gradients"));
}

// Whoever may write an output but not list what is beside it.
TEST_F(ResumeTest, AStateThatMayNotBeListedIsDoneWithout) {
  FakeS3 server;
  server.SetEnvironment();
  const Sha256 expected = Expected();
  options_.state = "s3://bucket/out/resume";
  server.Break(S3Op::kList, {S3Fault::kAnswer, 403, "AccessDenied"}, 100);
  const auto report = Run();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->sha256, expected);
  EXPECT_THAT(notes_, Contains(HasSubstr("cannot be kept")));
  EXPECT_EQ(server.count(S3Op::kPut), 0);
}

TEST_F(ResumeTest, WithoutRoomForItTheJobGoesOn) {
  std::ofstream(options_.state) << "no folder";
  const auto report = Run();
  EXPECT_FALSE(report.ok());  // what the user has there is not a state
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("is no folder"));

  fs::remove(options_.state);
  // A folder that takes nothing.
  options_.state = "/proc/self/out.resume";
  const auto full = Run();
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(full->sha256, Expected());
  EXPECT_THAT(full->notes, Contains(HasSubstr("cannot be kept")));
}

}  // namespace
}  // namespace cvxq
