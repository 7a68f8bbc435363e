// The job's state machine: transcripts that people can read, and what must hold for any inputs.
//
// Transcripts are tests/data/jobs/*.txt: an input and, below "----", what comes of it. After a
// change that is meant, CVXQ_UPDATE_TRANSCRIPTS=1 writes them anew; review their diff.
#include "service/job.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/random.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "service/errors.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using google::protobuf::util::MessageDifferencer;
using Kind = JobInput::Kind;

constexpr std::pair<const char*, Kind> kInputs[] = {
    {"cancel", Kind::kCancel},   {"recover", Kind::kRecover},   {"start", Kind::kStart},
    {"run", Kind::kRun},         {"progress", Kind::kProgress}, {"log", Kind::kLog},
    {"publish", Kind::kPublish}, {"succeed", Kind::kSucceed},   {"fail", Kind::kFail},
    {"stopped", Kind::kStopped}, {"requeue", Kind::kRequeue},
};

Job Accepted() {
  Job job;
  job.set_name("projects/p/quantizeModelJobs/j");
  job.set_uid("00000000-0000-4000-8000-000000000000");
  return job;
}

std::string Describe(const v1::JobRecord& record) {
  switch (record.change_case()) {
    case v1::JobRecord::kCreated:
      return "created";
    case v1::JobRecord::kRequeued:
      return "requeued: " + record.requeued().reason();
    case v1::JobRecord::kStarted:
      return "started";
    case v1::JobRecord::kRunning:
      return "running";
    case v1::JobRecord::kProgressed:
      return absl::StrCat("progressed to ", record.progressed().percent(), " %");
    case v1::JobRecord::kLogged:
      return "logged: " + record.logged().text();
    case v1::JobRecord::kPublishing:
      return "publishing " + record.publishing().result().uri();
    case v1::JobRecord::kCancelling:
      return "cancelling";
    case v1::JobRecord::kSucceeded:
      return "succeeded";
    case v1::JobRecord::kFailed:
      return absl::StrCat("failed: ", record.failed().error().message(), " (",
                          ReasonOf(FromRpcStatus(record.failed().error())), ")");
    case v1::JobRecord::kCancelled:
      return "cancelled";
    case v1::JobRecord::kSnapshot:
      return "snapshot";
    case v1::JobRecord::kDeleted:
    case v1::JobRecord::CHANGE_NOT_SET:
      return "?";
  }
  return "?";
}

// One transcript's job, and the log that its inputs make.
class Interpreter {
 public:
  // An input: its name, `attempt=N` (default: the job's own, or the next for start), a text.
  std::string Run(const std::string& line) {
    now_ += absl::Seconds(1);
    std::vector<std::string> words = absl::StrSplit(line, ' ');
    const std::string name = words[0];
    words.erase(words.begin());
    if (name == "create") {
      Job accepted = Accepted();
      for (const std::string& word : words) {
        const std::pair<std::string, std::string> option = absl::StrSplit(word, '=');
        int32_t value = 0;
        if (option.first != "max_attempts" || !absl::SimpleAtoi(option.second, &value)) return "?";
        accepted.mutable_resources()->set_max_attempts(value);
      }
      return Apply(CreateJob(accepted, now_));
    }
    for (const auto& [text, kind] : kInputs) {
      if (name == text) return Apply(Step(job_, Input(kind, words), now_));
    }
    return "unknown input " + name;
  }

 private:
  JobInput Input(Kind kind, const std::vector<std::string>& words) const {
    JobInput input{.kind = kind, .attempt = job_.attempt() + (kind == Kind::kStart ? 1 : 0)};
    std::string text;
    for (const std::string& word : words) {
      if (word.starts_with("attempt=")) {
        EXPECT_TRUE(absl::SimpleAtoi(word.substr(8), &input.attempt));
      } else {
        text += (text.empty() ? "" : " ") + word;
      }
    }
    if (kind == Kind::kProgress) {
      int percent = 0;
      EXPECT_TRUE(absl::SimpleAtoi(text, &percent));
      input.progress.set_percent(percent);
    }
    input.log.set_text(text);
    input.result.set_uri(text);
    input.text = text;
    input.error =
        ToRpcStatus(ServiceError(absl::StatusCode::kDataLoss, reason::kFileDamaged, text));
    return input;
  }

  std::string Apply(const StatusOr<JobStep>& step) {
    if (!step.ok()) {
      return absl::StrCat("refused: ", std::string(step.status().message()), " (",
                          absl::StatusCodeToString(step.status().code()), " ",
                          ReasonOf(step.status()), ")\n");
    }
    std::string result;
    for (const v1::JobRecord& record : step->records) {
      EXPECT_EQ(Fold(record, job_.revision() + 1, job_), absl::OkStatus());
      absl::StrAppend(&result, job_.revision(), " ", Describe(record), "\n");
    }
    EXPECT_TRUE(MessageDifferencer::Equals(job_, step->job));
    for (const JobAction action : step->actions) {
      absl::StrAppend(&result, "-> ", action == JobAction::kExecute ? "execute" : "stop", "\n");
    }
    absl::StrAppend(&result, Job::State_Name(job_.state()), " attempt ", job_.attempt(), " at ",
                    job_.progress().percent(), " %", job_.has_result() ? " with result" : "", "\n");
    return result;
  }

  Job job_;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000'000);
};

TEST(JobTranscripts, AreWhatTheStateMachineDoes) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(CVXQ_SOURCE_DIR "/tests/data/jobs")) {
    SCOPED_TRACE(entry.path());
    std::ifstream file(entry.path());
    std::stringstream contents;
    contents << file.rdbuf();
    Interpreter interpreter;
    std::string actual;
    bool answer = false;
    for (const absl::string_view view : absl::StrSplit(contents.str(), '\n')) {
      const std::string line(view);
      if (line.empty()) answer = false;
      if (answer || (line.empty() && actual.empty())) continue;
      if (line.starts_with('#')) {
        actual += line + "\n";
      } else if (line == "----") {
        answer = true;
      } else if (!line.empty()) {
        actual += line + "\n----\n" + interpreter.Run(line) + "\n";
        ++count;
      }
    }
    if (std::getenv("CVXQ_UPDATE_TRANSCRIPTS") != nullptr) {
      std::ofstream(entry.path()) << actual;
    } else {
      EXPECT_EQ(actual, contents.str());
    }
  }
  EXPECT_GT(count, 50);
}

// Whatever comes in whatever order.
TEST(JobProperty, HoldsForRandomInputs) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    uint64_t draws = 0;
    const auto draw = [&](uint64_t limit) { return RandomBits(seed, draws++) % limit; };
    absl::Time now = absl::FromUnixSeconds(1'700'000'000);
    std::vector<v1::JobRecord> log;
    JobStep created = CreateJob(Accepted(), now);
    Job job = created.job;
    log = created.records;
    bool was_cancelling = false, was_publishing = false;
    for (int i = 0; i < 60; ++i) {
      now += absl::Seconds(1);
      JobInput input{.kind = kInputs[draw(std::size(kInputs))].second};
      // Some inputs would end nearly every job at once.
      if ((input.kind == Kind::kFail || input.kind == Kind::kCancel) && draw(4) != 0) continue;
      input.attempt = job.attempt() + (input.kind == Kind::kStart ? 1 : 0);
      if (draw(10) == 0) input.attempt = static_cast<int32_t>(draw(4));
      input.progress.set_percent(static_cast<int32_t>(draw(200)) - 50);
      input.result.set_uri("out");
      const StatusOr<JobStep> step = Step(job, input, now);
      if (!step.ok()) {
        ASSERT_NE(ReasonOf(step.status()), "") << step.status();
        continue;
      }
      ASSERT_EQ(step->job.revision(), job.revision() + static_cast<int64_t>(step->records.size()));
      if (IsTerminal(job.state())) {
        ASSERT_TRUE(step->records.empty()) << "a terminal job changed";
        ASSERT_TRUE(step->actions.empty());
      }
      if (was_cancelling) {
        ASSERT_NE(step->job.state(), Job::SUCCEEDED);
      }
      const Job::State state = step->job.state();
      // Only an attempt that published nothing may leave PUBLISHING for anything but an end.
      if (was_publishing && input.kind != Kind::kRequeue) {
        ASSERT_TRUE(state == Job::PUBLISHING || state == Job::SUCCEEDED || state == Job::FAILED);
      }
      was_cancelling = was_cancelling || state == Job::CANCELLING;
      was_publishing = state == Job::PUBLISHING;
      if (state == job.state() && job.attempt() == step->job.attempt()) {
        ASSERT_GE(step->job.progress().percent(), job.progress().percent());
      }
      ASSERT_LE(step->job.progress().percent(), 100);
      job = step->job;
      log.insert(log.end(), step->records.begin(), step->records.end());
    }
    Job folded;
    for (size_t i = 0; i < log.size(); ++i) {
      ASSERT_EQ(Fold(log[i], static_cast<int64_t>(i) + 1, folded), absl::OkStatus());
    }
    ASSERT_TRUE(MessageDifferencer::Equals(folded, job));
    // The same from a snapshot on.
    v1::JobRecord snapshot;
    *snapshot.mutable_snapshot()->mutable_job() = job;
    Job again;
    ASSERT_EQ(Fold(snapshot, job.revision(), again), absl::OkStatus());
    ASSERT_TRUE(MessageDifferencer::Equals(again, job));
  }
}

TEST(JobFold, RefusesLogsWithHolesAndUnknownRecords) {
  const JobStep created = CreateJob(Accepted(), absl::UnixEpoch());
  v1::JobRecord started;
  started.mutable_started();
  Job job;
  EXPECT_EQ(Fold(started, 1, job).code(), absl::StatusCode::kDataLoss);
  ASSERT_EQ(Fold(created.records[0], 1, job), absl::OkStatus());
  EXPECT_EQ(Fold(created.records[0], 2, job).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Fold(started, 3, job).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Fold(v1::JobRecord(), 2, job).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Fold(started, 2, job), absl::OkStatus());
}

TEST(Timestamps, SurviveTheWire) {
  for (const int64_t nanos : {0, 1, 999'999'999}) {
    const absl::Time time = absl::FromUnixSeconds(1'700'000'000) + absl::Nanoseconds(nanos);
    EXPECT_EQ(FromTimestamp(ToTimestamp(time)), time);
    EXPECT_EQ(FromDuration(ToDuration(absl::Nanoseconds(nanos))), absl::Nanoseconds(nanos));
  }
}

}  // namespace
}  // namespace cvxq
