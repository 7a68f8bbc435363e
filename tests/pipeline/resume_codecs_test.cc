// Jobs that are not cut into stages, interrupted and begun again: every codec, further iterations
// and tuning.
#include <sys/stat.h>

#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/pipeline/resume_job.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kLinears = 6;  // of a block

struct Case {
  std::string name;
  std::function<void(QuantizeOptions&)> set;
  size_t stride = 4;  // new places that a run gets to before it is stopped
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class CodecJob : public ResumeJob {
 protected:
  CodecJob() {
    options_.calibration.samples = 66;  // a wave of 4096 tokens and a part of another
    options_.bits = 3;
  }
};

class ResumeCodecsTest : public CodecJob, public testing::WithParamInterface<Case> {};
using ResumeCodecTest = CodecJob;

std::vector<Case> Cases() {
  const auto codec = [](CodecKind kind) { return [=](QuantizeOptions& o) { o.codec = kind; }; };
  return {
      {"lloyd", codec(CodecKind::kLloyd), 8},
      {"lloyd_groups_twice",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kLloyd;
         o.feedback = Feedback::kNone;
         o.iterations = 2;
         o.grad_samples = 66;
       },
       6},
      {"rtn", codec(CodecKind::kRtn), 2},
      {"gptq", codec(CodecKind::kGptq), 3},
      {"gptq_two",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kGptq;
         o.feedback = Feedback::kTwo;
       },
       8},
      {"awq", codec(CodecKind::kAwq), 6},
      {"owq", codec(CodecKind::kOwq), 5},
      {"entropy_twice",
       [](QuantizeOptions& o) {
         o.iterations = 2;
         o.grad_samples = 66;
       },
       7},
      {"entropy_hidden", [](QuantizeOptions& o) { o.objective = Objective::kHidden; }, 15},
  };
}

// Each run is stopped a little further than the one before; none begins anew what is kept.
TEST_P(ResumeCodecsTest, GoesOnFromWhereverItWasStopped) {
  GetParam().set(options_);
  const Sha256 expected = Expected();
  ASSERT_FALSE(expected.empty());
  const auto of_phase = [&](const std::string& phase) {
    return std::count(phases_.begin(), phases_.end(), phase);
  };
  std::vector<std::string> statistics = {"gradients", "input moments"};
  // What `entropy` calls so is coding.
  if (options_.codec != CodecKind::kEntropy) statistics.push_back("survey");
  std::map<std::string, int64_t> allowed, begun;
  for (const std::string& phase : statistics) allowed[phase] = of_phase(phase);

  std::set<std::tuple<std::string, int64_t, int64_t>> seen;  // phase, which one of the name, count
  int runs = 0;
  for (bool ended = false; !ended; ++runs) {
    ASSERT_LT(runs, 100);
    size_t fresh = 0;
    std::string stopped_in;
    std::map<std::string, int64_t> which;
    const auto report = Run([&](const ProgressUpdate& update) {
      const std::string phase(update.phase);
      if (update.kind == ProgressUpdate::Kind::kStart) ++which[phase];
      if (update.kind != ProgressUpdate::Kind::kAdvance) return false;
      const bool codes = phase != "survey" && phase != "gradients" && phase != "input moments";
      if (codes && update.count % kLinears != 0) return false;
      fresh += seen.insert({phase, which[phase], update.count}).second;
      if (fresh < GetParam().stride || !stopped_in.empty()) return false;
      stopped_in = phase;
      return true;
    });
    ended = report.ok();
    for (const std::string& phase : statistics) begun[phase] += of_phase(phase);
    if (ended) {
      EXPECT_EQ(report->sha256, expected);
    } else {
      ASSERT_TRUE(absl::IsCancelled(report.status())) << report.status();
      ++allowed[stopped_in];
    }
    if (runs > 0) {
      EXPECT_THAT(notes_, Contains(HasSubstr("going on behind")));
    }
  }
  EXPECT_GT(runs, 1);
  for (const std::string& phase : statistics) EXPECT_LE(begun[phase], allowed[phase]) << phase;
  EXPECT_FALSE(fs::exists(options_.state));
}

INSTANTIATE_TEST_SUITE_P(Codecs, ResumeCodecsTest, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

// What the blocks that were coded have in the state stays as it is.
TEST_F(ResumeCodecTest, BlocksThatAreCodedAreNotCodedAgain) {
  options_.codec = CodecKind::kGptq;
  const auto codes = [&] {
    std::map<std::string, uint64_t> places;  // of files, new with whoever writes them
    for (const std::string& file : StateFiles()) {
      struct stat status = {};
      EXPECT_EQ(stat(file.c_str(), &status), 0);
      if (file.find("/codes-") != std::string::npos) places[file] = status.st_ino;
    }
    return places;
  };
  ASSERT_NO_FATAL_FAILURE(StopIn("code", 2 * kLinears));
  const auto first = codes();
  ASSERT_EQ(first.size(), 2u);
  ASSERT_NO_FATAL_FAILURE(StopIn("code", 3 * kLinears));
  const auto second = codes();
  ASSERT_EQ(second.size(), 3u);
  for (const auto& [file, place] : first) EXPECT_EQ(second.at(file), place);
  ASSERT_NO_FATAL_FAILURE(ExpectFinished());
}

TEST_F(ResumeCodecTest, OtherOptionsAreAnotherJob) {
  options_.codec = CodecKind::kLloyd;
  options_.feedback = Feedback::kNone;
  const std::vector<std::function<void(QuantizeOptions&)>> changes = {
      [](QuantizeOptions& o) { o.group_rows = 16; },
      [](QuantizeOptions& o) { o.partition = Partition::kRows; },
      [](QuantizeOptions& o) { o.iterations = 2; },
      [](QuantizeOptions& o) { o.codec = CodecKind::kGptq, o.feedback = Feedback::kOne; },
      [](QuantizeOptions& o) { o.group = 64; }};
  for (const auto& change : changes) {
    change(options_);
    ASSERT_NO_FATAL_FAILURE(StopIn("code", 1));
    EXPECT_THAT(notes_, Not(Contains(HasSubstr("going on behind"))));
    ASSERT_FALSE(StateFiles().empty());
  }
}

TEST_F(ResumeCodecTest, DamagedFilesAreDoneAgain) {
  Cases()[1].set(options_);  // the most kinds of files
  ASSERT_NO_FATAL_FAILURE(StopIn("code (pass 2)", 2 * kLinears));
  const std::string kept = scratch_.path() + "/kept";
  fs::copy(options_.state, kept, fs::copy_options::recursive);
  std::set<std::string> kinds;
  int how = 0;
  for (const std::string& file : StateFiles()) {
    std::string kind = fs::path(file).filename();
    kind = kind.substr(0, kind.find('-'));
    if (file.find("/commit/") != std::string::npos) kind = "commit";
    if (!kinds.insert(kind).second) continue;
    SCOPED_TRACE(file);
    fs::remove_all(options_.state);
    fs::copy(kept, options_.state, fs::copy_options::recursive);
    Damage(file, how++ % 3);
    ASSERT_NO_FATAL_FAILURE(ExpectFinished());
  }
  EXPECT_GE(kinds.size(), 4u);
}

class ResumeTuneTest : public ResumeJob {
 protected:
  ResumeTuneTest() {
    options_.model = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
    options_.codec = CodecKind::kRtn;
    options_.bits = 3;
    options_.calibration.samples = 64;  // two steps an epoch
    options_.tune = 2;
  }
  std::string Tuning() const {
    for (const std::string& file : StateFiles()) {
      if (file.ends_with("/tuning")) return file;
    }
    return "";
  }
};

TEST_F(ResumeTuneTest, GoesOnFromEveryStep) {
  const int64_t samples = options_.calibration.samples;
  // Before the first step, in both epochs, at the end.
  for (const int64_t count : {2 * samples, 2 * samples + 32, 3 * samples + 32, 4 * samples + 32}) {
    SCOPED_TRACE(count);
    ASSERT_NO_FATAL_FAILURE(StopIn("tune", count));
    EXPECT_EQ(Tuning().empty(), count <= 2 * samples);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectFinished());
  EXPECT_THAT(notes_, Contains(HasSubstr("going on behind 4 steps of tuning")));
}

TEST_F(ResumeTuneTest, IsKeptAfterEachEpochHoweverSeldomTheRest) {
  options_.save_seconds = 3600;
  const int64_t samples = options_.calibration.samples;
  ASSERT_NO_FATAL_FAILURE(StopIn("tune", 3 * samples + 32));
  ASSERT_NO_FATAL_FAILURE(ExpectFinished());
  EXPECT_THAT(notes_, Contains(HasSubstr("going on behind 2 steps of tuning")));
}

TEST_F(ResumeTuneTest, DamagedTuningBeginsAnew) {
  const int64_t samples = options_.calibration.samples;
  for (const int how : {0, 2}) {
    ASSERT_NO_FATAL_FAILURE(StopIn("tune", 3 * samples));
    Damage(Tuning(), how);
    ASSERT_NO_FATAL_FAILURE(ExpectFinished());
    EXPECT_THAT(notes_, Not(Contains(HasSubstr("steps of tuning"))));
  }
}

}  // namespace
}  // namespace cvxq
