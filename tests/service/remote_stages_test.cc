// Jobs whose stages run in worker processes: the same bytes as without, whatever becomes of the
// workers and of the connections between them.
#include "service/workers/remote_stages.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "absl/time/clock.h"
#include "base/interrupt.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/quantize.h"
#include "service/api/grpc_log.h"
#include "service/log.h"
#include "storage/checkpoint.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/pipeline/spoilt_model.h"
#include "tests/service/certificates.h"
#include "tests/service/tcp_proxy.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// One `cvxq worker`, killed at the end.
class WorkerProcess {
 public:
  WorkerProcess(const std::string& log, int coordinator, const std::string& failpoint = "",
                std::vector<std::string> flags = {})
      : failpoint_(failpoint) {
    std::vector<std::string> arguments = {CVXQ_BINARY, "worker", "--threads", "1"};
    if (std::find(flags.begin(), flags.end(), "--coordinator") == flags.end()) {
      arguments.insert(arguments.end(), {"--coordinator", absl::StrCat("127.0.0.1:", coordinator)});
    }
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable)
      variables.push_back(*variable);
    if (!failpoint.empty()) variables.push_back("CVXQ_FAILPOINT=" + failpoint);
    const auto pointers = [](std::vector<std::string>& texts) {
      std::vector<char*> result;
      for (std::string& text : texts) result.push_back(text.data());
      result.push_back(nullptr);
      return result;
    };
    const std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600), STDERR_FILENO);
    execve(CVXQ_BINARY, argv.data(), envp.data());
    _exit(127);
  }
  ~WorkerProcess() {
    if (pid_ < 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  void Signal(int signal) const { kill(pid_, signal); }
  // Whether it has ended.
  bool Dead() {
    if (pid_ >= 0 && waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
    return pid_ < 0;
  }
  const std::string& failpoint() const { return failpoint_; }

 private:
  const std::string failpoint_;
  pid_t pid_ = -1;
};

// A port that nobody listens on.
int FreePort() {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(bind(descriptor, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size), 0);
  close(descriptor);
  return ntohs(address.sin_port);
}

class RemoteStagesTest : public testing::Test {
 protected:
  using Sha256 = std::map<std::string, std::string>;

  void SetUp() override {
    SetLogSink([](std::string_view) {});
    LogGrpcErrors();
    auto pool = WorkerPool::Start({});
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    coordinator_ = pool_->port();
  }
  void TearDown() override {
    workers_.clear();
    pool_.reset();
    SetLogSink(nullptr);
    if (!HasFailure()) return;
    std::ifstream log(Log());
    std::cerr << log.rdbuf();
  }

  std::string Log() const { return scratch_.path() + "/log"; }
  static std::string Example() {
    return std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
  }
  void StartWorker(const std::string& failpoint = "", std::vector<std::string> flags = {}) {
    workers_.push_back(
        std::make_unique<WorkerProcess>(Log(), coordinator_, failpoint, std::move(flags)));
  }
  // Waits until so many are registered.
  void AwaitWorkers(size_t count) {
    const absl::Time until = absl::Now() + absl::Seconds(30);
    while (pool_->workers().size() != count && absl::Now() < until) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    ASSERT_EQ(pool_->workers().size(), count);
  }

  StatusOr<QuantizeReport> Run(MakeStages make_stages, const std::string& model = Example(),
                               std::function<void(const ProgressUpdate&)> listener = nullptr) {
    QuantizeOptions options;
    options.model = model;
    options.output = scratch_.path() + "/out";
    options.overwrite = true;
    options.bits = 2.2;
    options.threads = 2;
    options.calibration.samples = samples_;
    options.calibration.seq_len = 64;
    options.state = state_;
    options.save_seconds = 0;
    options.make_stages = std::move(make_stages);
    Progress progress({.listener = std::move(listener)});
    return Quantize(options, progress);
  }
  StatusOr<QuantizeReport> RunRemotely(
      int64_t workers = 0, std::function<void(const ProgressUpdate&)> listener = nullptr) {
    return Run(
        UseWorkers(*pool_,
                   {.workers = workers, .replicas = replicas_, .patience = absl::Seconds(20)}),
        Example(), std::move(listener));
  }
  // Of the same job in this process.
  const Sha256& Expected() {
    static std::map<int64_t, Sha256>* const expected = new std::map<int64_t, Sha256>();
    Sha256& of_samples = (*expected)[samples_];
    if (of_samples.empty()) {
      const std::string state = std::exchange(state_, "");
      const auto alone = Run(nullptr);
      state_ = state;
      EXPECT_TRUE(alone.ok()) << alone.status();
      if (alone.ok()) of_samples = alone->sha256;
    }
    return of_samples;
  }
  // Runs the job on four workers that die at these places, and are replaced by others.
  void ExpectSameWhereWorkersDie(const std::vector<std::string>& places) {
    std::set<std::string> died;
    for (size_t i = 0; i < places.size(); i += 4) {
      workers_.clear();
      AwaitWorkers(0);
      for (size_t k = i; k < i + 4; ++k) StartWorker(k < places.size() ? places[k] : "");
      std::atomic<bool> ended = false;
      std::thread nurse([&] {
        while (!ended) {
          for (auto& worker : workers_) {
            if (!worker->Dead()) continue;
            died.insert(worker->failpoint());
            worker = std::make_unique<WorkerProcess>(Log(), coordinator_);
          }
          absl::SleepFor(absl::Milliseconds(5));
        }
      });
      // Four stages, however soon a worker dies.
      const absl::Time until = absl::Now() + absl::Seconds(20);
      while (pool_->workers().size() < 4 && absl::Now() < until) {
        absl::SleepFor(absl::Milliseconds(5));
      }
      const auto report = RunRemotely();
      ended = true;
      nurse.join();
      ExpectSame(report);
      if (HasFailure()) FAIL() << "from " << places[i] << " on";
    }
    std::vector<std::string> lived;
    for (const std::string& place : places) {
      if (!died.contains(place)) lived.push_back(place);
    }
    EXPECT_THAT(lived, IsEmpty());
  }

  void ExpectSame(const StatusOr<QuantizeReport>& report) {
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->sha256, Expected());
  }

  ScratchFolder scratch_;
  std::unique_ptr<WorkerPool> pool_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  int coordinator_ = 0;
  int64_t samples_ = 70;  // a wave of 4096 tokens and a part of another
  int64_t replicas_ = 0;
  std::string state_;
};

TEST_F(RemoteStagesTest, SameBytesForAnyNumberOfWorkers) {
  for (const int64_t count : {1, 2, 3, 4}) {
    StartWorker();
    AwaitWorkers(count);
    int64_t sequences = 0;
    const auto report = RunRemotely(count, [&](const ProgressUpdate& update) {
      if (update.phase == "gradients") sequences = std::max(sequences, update.count);
    });
    ExpectSame(report);
    EXPECT_EQ(sequences, 70 * count);
  }
}

// Each worker reads its own blocks alone, once; the coordinator what it copies.
TEST_F(RemoteStagesTest, ModelsInBuckets) {
  FakeS3 server;
  server.SetEnvironment();
  for (const auto& entry : fs::directory_iterator(Example())) {
    std::ifstream file(entry.path(), std::ios::binary);
    server.Put("m/" + entry.path().filename().string(), {std::istreambuf_iterator<char>(file), {}});
  }
  const auto checkpoint = Checkpoint::Open(Example());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  int64_t twice = 0;  // embedding, head, last norm: by the workers, and to be copied
  for (const std::string& name : (*checkpoint)->names()) {
    const bool linear = name.find("_proj.") != std::string::npos;
    if (!linear) twice += (*checkpoint)->Find(name)->bytes();
  }
  for (int i = 0; i < 3; ++i) StartWorker();
  AwaitWorkers(3);
  ExpectSame(
      Run(UseWorkers(*pool_, {.workers = 3, .patience = absl::Seconds(20)}), "s3://bucket/m"));
  constexpr int64_t kHeadersAndSmallFiles = 4 * 8'000 + 2 * 60'000;
  EXPECT_LE(server.body_bytes_sent(),
            1.01 * ((*checkpoint)->total_bytes() + twice) + kHeadersAndSmallFiles);
  EXPECT_THAT(server.complaints(), IsEmpty());
}

// Every place at which a worker can die, four of them in each run; whoever dies is replaced.
TEST_F(RemoteStagesTest, WorkersThatDieAnywhere) {
  ExpectSameWhereWorkersDie({"worker-hello-sent",
                             "worker-command-read:2",
                             "worker-command-read:4",
                             "worker-before-write:3",
                             "stage-start",
                             "stage-ready",
                             "stage-before-gradients",
                             "wave-before-fetch",
                             "wave-before-keep",
                             "wave-kept",
                             "wave-fetched",
                             "transport-asked",
                             "transport-chunk-sent:2",
                             "stage-after-gradients",
                             "stage-before-moments",
                             "stage-after-moments",
                             "stage-before-order:2",
                             "stage-after-order:3",
                             "stage-before-collect",
                             "stage-linear-reported:3",
                             "stage-step-reported:5",
                             "stage-after-order:6",
                             "wave-fetched:2",
                             "stage-step-reported"});
}

TEST_F(RemoteStagesTest, ReplicasHaveTheSameBytes) {
  samples_ = 200;  // three waves and a part of a fourth
  for (int i = 1; i <= 3; ++i) {
    StartWorker();
    AwaitWorkers(i);
  }
  for (const int64_t replicas : {2, 3}) {
    replicas_ = replicas;
    int64_t sequences = 0;
    ExpectSame(RunRemotely(0, [&](const ProgressUpdate& update) {
      if (update.phase == "gradients") sequences = std::max(sequences, update.count);
    }));
    EXPECT_EQ(sequences, 200);  // each pipeline is one stage
  }
}

// Two pipelines of two stages: a stage that is lost has the waves of its neighbours and the sums of
// the other pipeline once more, and gives its own.
TEST_F(RemoteStagesTest, ReplicasOnWorkersThatDie) {
  samples_ = 200;
  replicas_ = 2;
  ExpectSameWhereWorkersDie({"wave-kept:2", "sums-given", "sums-taken:20", "stage-after-moments"});
  state_ = scratch_.path() + "/out.resume";
  ExpectSameWhereWorkersDie(
      {"stage-before-save", "worker-waves-forgotten", "sums-given:20", "statistics-saved:3"});
  EXPECT_FALSE(fs::exists(state_));
}

TEST_F(RemoteStagesTest, WorkersThatDieWhileTheySave) {
  state_ = scratch_.path() + "/out.resume";
  samples_ = 500;  // seven waves and a part of an eighth
  ExpectSameWhereWorkersDie({"state-before-block", "sums-before-commit", "sums-saved",
                             "cut-before-report", "statistics-before-commit", "statistics-saved",
                             "codes-before-commit", "codes-saved", "stage-before-save:2",
                             "stage-after-save", "worker-waves-forgotten", "stage-after-save:5"});
  EXPECT_FALSE(fs::exists(state_));
}

// What is committed is not done again, by whoever takes a lost stage or begins the job anew.
TEST_F(RemoteStagesTest, WhatIsSavedIsNotDoneAgain) {
  state_ = scratch_.path() + "/out.resume";
  StartWorker("stage-before-order:3");
  AwaitWorkers(1);
  StartWorker();
  AwaitWorkers(2);
  // They would die if they had to do gradients or moments. (Workers go with the thread that has
  // started them.)
  std::atomic<bool> ended = false;
  std::thread nurse([&] {
    while (!workers_[0]->Dead()) absl::SleepFor(absl::Milliseconds(5));
    workers_[1]->Signal(SIGKILL);
    workers_.push_back(
        std::make_unique<WorkerProcess>(Log(), coordinator_, "stage-before-gradients"));
    workers_.push_back(
        std::make_unique<WorkerProcess>(Log(), coordinator_, "stage-before-moments"));
    while (!ended) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_FALSE(workers_[2]->Dead());
    EXPECT_FALSE(workers_[3]->Dead());
  });
  const auto report = RunRemotely();
  ended = true;
  nurse.join();
  ExpectSame(report);
}

// A stage that moves in the middle of the job finds what it would begin with spoilt.
TEST_F(RemoteStagesTest, WhatIsDamagedMeanwhileIsDoneAgain) {
  state_ = scratch_.path() + "/out.resume";
  StartWorker("stage-before-order:3");
  AwaitWorkers(1);
  StartWorker();
  AwaitWorkers(2);
  int damaged = 0;
  const auto report = RunRemotely(0, [&](const ProgressUpdate& update) {
    if (update.phase != "foresee" || damaged > 0) return;
    for (const auto& entry : fs::recursive_directory_iterator(state_)) {
      if (entry.path().filename() != "gradients") continue;
      fs::resize_file(entry.path(), entry.file_size() / 2);
      ++damaged;
    }
  });
  EXPECT_EQ(damaged, 4);
  EXPECT_TRUE(workers_[0]->Dead());
  ExpectSame(report);
  EXPECT_THAT(report->notes, Contains(HasSubstr("so it is done again")));
  EXPECT_FALSE(fs::exists(state_));
}

TEST_F(RemoteStagesTest, AJobBegunAnewWithOtherWorkersGoesOn) {
  state_ = scratch_.path() + "/out.resume";
  samples_ = 500;
  for (int i = 1; i <= 3; ++i) {
    StartWorker();
    AwaitWorkers(i);
  }
  std::vector<std::string> phases;
  for (const auto& [phase, count] : std::vector<std::pair<std::string, int64_t>>{
           {"gradients", 1200}, {"input moments", 1}, {"code", 3}}) {
    replicas_ = phase == "code" ? 2 : 1;
    std::atomic<bool> stop = false;
    const StopScope scope(&stop);
    const auto report = RunRemotely(
        phases.empty() ? 3 : 2, [&, &phase = phase, &count = count](const ProgressUpdate& update) {
          if (update.kind == ProgressUpdate::Kind::kStart) phases.emplace_back(update.phase);
          if (update.phase == phase && update.count >= count) stop = true;
        });
    EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
  }
  ExpectSame(Run(nullptr));  // in this process, at last
  EXPECT_LE(std::count(phases.begin(), phases.end(), "gradients"), 2);
}

TEST_F(RemoteStagesTest, AWorkerFrozenBeyondItsLease) {
  StartWorker();
  AwaitWorkers(1);
  StartWorker();
  AwaitWorkers(2);
  std::thread thaw;
  bool frozen = false;
  const auto report = RunRemotely(0, [&](const ProgressUpdate& update) {
    if (frozen || update.phase != "gradients" || update.count == 0) return;
    frozen = true;
    workers_[0]->Signal(SIGSTOP);
    thaw = std::thread([&] {
      absl::SleepFor(absl::Milliseconds(5200));
      workers_[0]->Signal(SIGCONT);
    });
  });
  if (thaw.joinable()) thaw.join();
  EXPECT_TRUE(frozen);
  ExpectSame(report);
  // It comes back as another, and is as good.
  AwaitWorkers(2);
  ExpectSame(RunRemotely());
}

TEST_F(RemoteStagesTest, ConnectionsThatAreCut) {
  // Between two workers again and again, and once between each of them and the coordinator.
  const auto to_coordinator = TcpProxy::Start(absl::StrCat(pool_->port()));
  ASSERT_TRUE(to_coordinator.ok()) << to_coordinator.status();
  coordinator_ = (*to_coordinator)->port();
  std::vector<std::unique_ptr<TcpProxy>> proxies;
  for (int i = 0; i < 2; ++i) {
    const int port = FreePort();
    auto proxy = TcpProxy::Start(absl::StrCat(port));
    ASSERT_TRUE(proxy.ok()) << proxy.status();
    proxies.push_back(*std::move(proxy));
    StartWorker("", {"--listen", absl::StrCat("127.0.0.1:", port), "--advertise",
                     absl::StrCat("127.0.0.1:", proxies.back()->port())});
  }
  AwaitWorkers(2);
  std::atomic<bool> ended = false;
  std::thread cutter([&] {
    while (!ended) {
      absl::SleepFor(absl::Milliseconds(50));
      for (const auto& proxy : proxies) proxy->CutAll();
    }
  });
  bool cut = false;
  const auto report = RunRemotely(0, [&](const ProgressUpdate& update) {
    if (update.phase != "input moments" || std::exchange(cut, true)) return;
    (*to_coordinator)->CutAll();
  });
  ended = true;
  cutter.join();
  ExpectSame(report);
  EXPECT_TRUE(cut);
  for (const auto& proxy : proxies) EXPECT_GT(proxy->connections(), 0);
}

TEST_F(RemoteStagesTest, FailuresOfStagesAreTold) {
  auto report = Run(UseWorkers(*pool_, {.patience = absl::Milliseconds(200)}));
  EXPECT_TRUE(absl::IsUnavailable(report.status())) << report.status();
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("no worker"));

  StartWorker();
  AwaitWorkers(1);
  StartWorker();
  AwaitWorkers(2);
  // A weight of the third block is not a number.
  const std::string model = scratch_.path() + "/model";
  ASSERT_NO_FATAL_FAILURE(CopyWithNan(Example(), model, "model.layers.2.mlp.up_proj.weight"));
  report = Run(UseWorkers(*pool_), model);
  EXPECT_TRUE(absl::IsDataLoss(report.status())) << report.status();
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("model.layers.2.mlp.up_proj"));

  // Stopped in the middle; the workers are free again.
  std::atomic<bool> stop = false;
  {
    const StopScope scope(&stop);
    report = RunRemotely(0, [&](const ProgressUpdate& update) {
      if (update.phase == "input moments") stop = true;
    });
  }
  EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
  ExpectSame(RunRemotely());
}

TEST_F(RemoteStagesTest, WhatOneWorkerLacksAnotherHas) {
  StartWorker("", {"--memory", "8", "--spill", "/nonexistent"});
  AwaitWorkers(1);
  const auto report = RunRemotely();
  EXPECT_TRUE(absl::IsNotFound(report.status())) << report.status();
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("/nonexistent"));
  StartWorker();
  AwaitWorkers(2);
  ExpectSame(RunRemotely());
}

TEST_F(RemoteStagesTest, WithCertificatesOnly) {
  const Certificate authority = MakeAuthority("ours"), foreign = MakeAuthority("theirs");
  const Certificate own = MakeCertificate(authority, "coordinator", 1);
  pool_ = *WorkerPool::Start(
      {.listen = "localhost:0",
       .tls = {
           .certificate = own.certificate, .key = own.key, .authority = authority.certificate}});
  const auto file = [&](const std::string& name, const std::string& text) {
    const std::string path = scratch_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  };
  const auto flags = [&](const std::string& name, const Certificate& signer) {
    const Certificate made = MakeCertificate(signer, name, 1);
    return std::vector<std::string>{"--coordinator", absl::StrCat("localhost:", pool_->port()),
                                    "--listen",      "localhost:0",
                                    "--tls-cert",    file(name + ".cert", made.certificate),
                                    "--tls-key",     file(name + ".key", made.key),
                                    "--tls-ca",      file(name + ".ca", authority.certificate)};
  };
  StartWorker("", flags("foreign", foreign));
  StartWorker("", {"--coordinator", absl::StrCat("localhost:", pool_->port())});
  StartWorker("", flags("one", authority));
  StartWorker("", flags("two", authority));
  AwaitWorkers(2);
  ExpectSame(RunRemotely());
  EXPECT_TRUE(absl::IsInvalidArgument(WorkerPool::Start({.listen = "0.0.0.0:0"}).status()));
}

}  // namespace
}  // namespace cvxq
