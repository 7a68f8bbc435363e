// Whole jobs while processes die: coordinators, workers and local runs are killed (kill -9) at
// every place that has a name (base/failpoint.h) and at random times, some are frozen beyond their
// lease, and all are started again. Each job must come to the bytes of one that nothing happened
// to.
//
// Run i is a function of i, but for when processes get their turn. CVXQ_CHAOS_RUNS says how many
// (scripts/chaos.sh: 1000), CVXQ_CHAOS_FIRST with which to begin.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <regex>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/random.h"
#include "cvxq/v1/quantization_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "storage/files.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

const std::string kModel = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
const Arguments kJob = {"--samples", "200", "--seq-len", "64"};  // four waves
// Local runs are these jobs in turn, the service's the first.
const Arguments kCodecs[] = {{"--bits", "2.2"},
                             {"--codec", "lloyd", "--bits", "3", "--feedback", "none",
                              "--iterations", "2", "--grad-samples", "100"},
                             {"--codec", "gptq", "--bits", "3", "--tune", "1"}};
// The model has four blocks: eight are two pipelines of four stages.
constexpr int kWorkers[] = {1, 2, 3, 4, 8};

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

// All names of places, as the sources have them.
std::vector<std::string> Failpoints() {
  std::set<std::string> names;
  const std::regex call("Failpoint\\(\"([a-z0-9-]+)\"\\)");
  for (const char* folder : {"base", "cli", "pipeline", "service", "storage"}) {
    for (const auto& entry :
         fs::recursive_directory_iterator(std::string(CVXQ_SOURCE_DIR) + "/" + folder)) {
      if (entry.path().extension() != ".cc") continue;
      const std::string text = *ReadFile(entry.path());
      for (std::sregex_iterator it(text.begin(), text.end(), call), end; it != end; ++it) {
        names.insert((*it)[1]);
      }
    }
  }
  return {names.begin(), names.end()};
}

// One process of the program under test.
class Victim {
 public:
  Victim(const Arguments& arguments, std::string failpoint, const std::string& log)
      : failpoint_(std::move(failpoint)) {
    int out[2];
    if (pipe(out) != 0) abort();
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      Arguments words = arguments;
      words.insert(words.begin(), CVXQ_BINARY);
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      if (!failpoint_.empty()) setenv("CVXQ_FAILPOINT", failpoint_.c_str(), 1);
      const std::string error = log;
      FILE* file = std::freopen(error.c_str(), "a", stderr);
      if (file == nullptr) _exit(127);
      dup2(out[1], STDOUT_FILENO);
      close(out[0]);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(out[1]);
    out_ = out[0];
  }
  ~Victim() {
    if (Lives()) Kill();
    close(out_);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  bool Lives() {
    if (child_ > 0 && waitpid(child_, &status_, WNOHANG) == child_) child_ = -1;
    return child_ > 0;
  }
  void Kill() {
    kill(child_, SIGKILL);
    waitpid(std::exchange(child_, -1), &status_, 0);
  }
  void Signal(int signal) const {
    if (child_ > 0) kill(child_, signal);
  }
  // Of one that lives no more; -1 where it was killed.
  int code() const { return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1; }
  const std::string& failpoint() const { return failpoint_; }
  // Standard output to the end of a JSON document, or all where it ends before.
  std::string ReadJson() const {
    std::string text;
    for (char c; !text.ends_with("}\n") && read(out_, &c, 1) == 1;) text += c;
    return text;
  }

 private:
  const std::string failpoint_;
  pid_t child_ = -1;
  int out_ = -1, status_ = 0;
};

class ChaosTest : public testing::Test {
 protected:
  using Sha256 = std::map<std::string, std::string>;

  static void SetUpTestSuite() {
    failpoints_ = new std::vector<std::string>(Failpoints());
    expected_ = new std::vector<Sha256>();
    for (const Arguments& codec : kCodecs) expected_->push_back(Undisturbed(codec));
  }

  static Sha256 Undisturbed(const Arguments& codec) {
    const ScratchFolder scratch;
    const std::string out = scratch.path() + "/out";
    Arguments arguments = {"quantize", kModel, "-o", out, "--quiet"};
    arguments.insert(arguments.end(), kJob.begin(), kJob.end());
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    Victim alone(arguments, "", scratch.path() + "/log");
    while (alone.Lives()) absl::SleepFor(absl::Milliseconds(20));
    return Sums(out);
  }
  static Sha256 Sums(const std::string& folder) {
    Sha256 sums;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      sums[entry.path().filename()] = *FileSha256(entry.path());
    }
    return sums;
  }

  // A number below `count` that run and place in it decide.
  uint64_t Draw(uint64_t count) { return RandomBits(DeriveKey(run_, 7), draws_++) % count; }
  // The next place to die at, each in turn, the first to the fourth time that it is passed.
  std::string NextFailpoint() {
    const std::string& name = (*failpoints_)[(2 * run_ + planned_++) % failpoints_->size()];
    return absl::StrCat(name, ":", 1 + Draw(4));
  }

  void RunLocally(size_t codec);
  void RunService();
  void Buried(const Victim& victim) {
    ++deaths_;
    if (!victim.failpoint().empty() && victim.code() < 0) {
      died_at_.insert(victim.failpoint().substr(0, victim.failpoint().find(':')));
    }
  }
  std::string Log() const {
    std::ifstream file(log_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  static std::vector<std::string>* failpoints_;
  static std::vector<Sha256>* expected_;  // by codec
  uint64_t run_ = 0, draws_ = 0, planned_ = 0;
  int64_t deaths_ = 0, replicated_ = 0;
  std::set<std::string> died_at_;
  std::string folder_, log_;  // of the run
};

std::vector<std::string>* ChaosTest::failpoints_ = nullptr;
std::vector<ChaosTest::Sha256>* ChaosTest::expected_ = nullptr;

// `cvxq quantize`, begun again until it ends by itself.
void ChaosTest::RunLocally(size_t codec) {
  const std::string out = folder_ + "/out";
  for (int attempt = 0; attempt < 20; ++attempt) {
    Arguments arguments = {"quantize", kModel, "-o", out, "--quiet", "--save-every", "0"};
    arguments.insert(arguments.end(), kJob.begin(), kJob.end());
    arguments.insert(arguments.end(), kCodecs[codec].begin(), kCodecs[codec].end());
    if (codec == 0) arguments.insert(arguments.end(), {"--workers", absl::StrCat(kWorkers[Draw(5)])});
    Victim victim(arguments, attempt < 6 ? NextFailpoint() : "", log_);
    while (victim.Lives()) absl::SleepFor(absl::Milliseconds(5));
    if (victim.code() >= 0) {
      // Whoever died with the output in place is told that it is there.
      ASSERT_TRUE(victim.code() == 0 || (victim.code() == 2 && fs::exists(out))) << Log();
      return;
    }
    Buried(victim);
  }
  FAIL() << "not done after 20 attempts\n" << Log();
}

void ChaosTest::RunService() {
  const int count = kWorkers[Draw(5)];
  std::string clients = "127.0.0.1:0", workers = "127.0.0.1:0";
  std::unique_ptr<Victim> coordinator;
  const auto start = [&](const std::string& failpoint) {
    coordinator = std::make_unique<Victim>(
        Arguments{"coordinator", "--json", "--listen", clients, "--listen-workers", workers,
                  "--store", "sqlite:" + folder_ + "/jobs.db", "--allow", folder_, "--allow",
                  kModel, "--save-every", "0", "--settle", "0.3"},
        failpoint, log_);
    const auto addresses = nlohmann::json::parse(coordinator->ReadJson(), nullptr, false);
    if (!addresses.is_object()) return;  // it died; the addresses are known from before
    clients = addresses["address"];
    workers = addresses["workers"];
  };
  ASSERT_NO_FATAL_FAILURE(start(""));
  const std::string plan = NextFailpoint();
  std::vector<std::unique_ptr<Victim>> victims;
  const auto worker = [&](const std::string& failpoint) {
    return std::make_unique<Victim>(
        Arguments{"worker", "--threads", "1", "--coordinator", workers, "--spill", folder_},
        failpoint, log_);
  };
  // The place is passed by one kind of process: the others do not mind.
  coordinator->Kill();
  start(plan);
  for (int i = 0; i < count; ++i) {
    victims.push_back(worker(i == 0 ? plan : i == 1 ? NextFailpoint() : ""));
  }

  v1::CreateQuantizeModelJobRequest request;
  request.set_parent("projects/default");
  request.set_quantize_model_job_id("chaos");
  request.set_request_id("6e0ea6a1-6b0e-4b9c-9f57-0f2c5a0e9d11");
  v1::QuantizeModelJob& job = *request.mutable_quantize_model_job();
  job.mutable_source()->set_uri(kModel);
  job.mutable_output()->set_uri(folder_ + "/out");
  job.mutable_spec()->set_bits(2.2);
  job.mutable_spec()->mutable_calibration()->set_samples(200);
  job.mutable_spec()->mutable_calibration()->set_seq_len(64);
  job.mutable_resources()->set_max_attempts(50);
  const auto stub = v1::QuantizationService::NewStub(
      grpc::CreateChannel(clients, grpc::InsecureChannelCredentials()));

  int budget = 4;  // further deaths
  bool created = false;
  const bool frozen_run = run_ % 20 == 5;
  absl::Time next_kill = absl::Now() + absl::Milliseconds(200 + Draw(1500)), thaw;
  Victim* frozen = nullptr;
  const absl::Time until = absl::Now() + absl::Minutes(4);
  for (v1::QuantizeModelJob::State state = {}; state != v1::QuantizeModelJob::SUCCEEDED;) {
    ASSERT_LT(absl::Now(), until) << "run " << run_ << " does not end\n" << Log();
    if (!coordinator->Lives()) {
      Buried(*coordinator);
      start(budget-- > 0 ? NextFailpoint() : "");
    }
    for (auto& victim : victims) {
      if (victim->Lives()) continue;
      Buried(*victim);
      if (victim.get() == frozen) frozen = nullptr;
      victim = worker(budget-- > 0 ? NextFailpoint() : "");
    }
    if (budget > 0 && absl::Now() > next_kill) {
      const uint64_t which = Draw(victims.size() + 1);
      next_kill = absl::Now() + absl::Milliseconds(300 + Draw(2000));
      Victim& chosen = which < victims.size() ? *victims[which] : *coordinator;
      if (frozen_run && frozen == nullptr && which < victims.size()) {
        chosen.Signal(SIGSTOP);
        frozen = &chosen;
        thaw = absl::Now() + absl::Milliseconds(5500);
        budget = 0;
      } else {
        chosen.Kill();
      }
    }
    if (frozen != nullptr && absl::Now() > thaw) std::exchange(frozen, nullptr)->Signal(SIGCONT);

    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    if (!created) {
      google::longrunning::Operation operation;
      created = stub->CreateQuantizeModelJob(&context, request, &operation).ok();
    } else {
      v1::GetQuantizeModelJobRequest get;
      get.set_name("projects/default/quantizeModelJobs/chaos");
      v1::QuantizeModelJob found;
      if (stub->GetQuantizeModelJob(&context, get, &found).ok()) state = found.state();
      ASSERT_NE(state, v1::QuantizeModelJob::FAILED)
          << "run " << run_ << ": " << found.error().message() << "\n"
          << Log();
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  if (frozen != nullptr) frozen->Signal(SIGCONT);
}

TEST_F(ChaosTest, SameBytesWhateverDies) {
  ASSERT_GE(failpoints_->size(), 45u);
  for (const Sha256& expected : *expected_) ASSERT_FALSE(expected.empty());
  const int64_t first = FromEnvironment("CVXQ_CHAOS_FIRST", 0);
  const int64_t runs = FromEnvironment("CVXQ_CHAOS_RUNS", 60);
  for (int64_t i = first; i < first + runs; ++i) {
    run_ = static_cast<uint64_t>(i);
    draws_ = planned_ = 0;
    const ScratchFolder scratch;
    folder_ = scratch.path();
    log_ = folder_ + "/log";
    const size_t codec = i % 4 == 3 ? i / 4 % std::size(kCodecs) : 0;
    if (i % 4 == 3) {
      ASSERT_NO_FATAL_FAILURE(RunLocally(codec));
    } else {
      ASSERT_NO_FATAL_FAILURE(RunService());
    }
    ASSERT_EQ(Sums(folder_ + "/out"), (*expected_)[codec]) << "run " << i << "\n" << Log();
    replicated_ += Log().find("\"replicas\":\"2\"") != std::string::npos;
    if (i % 50 == 49) {
      std::cerr << i + 1 - first << " runs, " << deaths_ << " deaths, at " << died_at_.size()
                << " of " << failpoints_->size() << " places\n";
    }
  }
  std::cerr << runs << " runs, " << deaths_ << " deaths, at " << died_at_.size() << " of "
            << failpoints_->size() << " places, " << replicated_
            << " jobs with replicas; all outputs the same\n";
  EXPECT_GT(deaths_, runs / 2);
}

}  // namespace
}  // namespace cvxq
