// A real coordinator on real stores that fail under it, and clients that notice nothing but
// UNAVAILABLE.
#include <filesystem>

#include "gtest/gtest.h"
#include "service/api/grpc_status.h"
#include "service/errors.h"
#include "service/job.h"
#include "service/store/redis_connection.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/service/redis_server.h"
#include "tests/service/submission_storm.h"

namespace cvxq {
namespace {

using Stub = v1::QuantizationService::Stub;

const std::string kModel = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";

// A coordinator whose state is in a Redis server of its own.
class RedisFaultsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
    std::filesystem::copy(kModel, scratch_.path() + "/model");
    std::filesystem::create_directory(scratch_.path() + "/redis");
    server_ = std::make_unique<RedisServer>(scratch_.path() + "/redis");
    coordinator_ = std::make_unique<CoordinatorProcess>(server_->address(), scratch_.path());
    stub_ = ConnectTo(coordinator_->port());
  }

  template <typename Response, typename Request>
  StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                       Response*),
                          const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(120));
    context.set_wait_for_ready(true);
    Response response;
    const Status status = FromGrpcStatus(((*stub_).*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  // The job that the numbered request makes, sent again while the service is not there. Most are
  // quick; `long_one` takes far longer than the test.
  std::string Submit(int64_t number, bool long_one = false) {
    auto request = NumberedRequest(scratch_.path(), number);
    auto& calibration =
        *request.mutable_quantize_model_job()->mutable_spec()->mutable_calibration();
    calibration.set_samples(long_one ? 100'000 : 8);
    calibration.set_seq_len(32);
    for (;;) {
      const auto operation = Call(&Stub::CreateQuantizeModelJob, request);
      if (absl::IsUnavailable(operation.status())) continue;
      EXPECT_TRUE(operation.ok()) << operation.status();
      v1::JobMetadata metadata;
      if (operation.ok()) operation->metadata().UnpackTo(&metadata);
      return metadata.job();
    }
  }
  Job Get(const std::string& name) {
    v1::GetQuantizeModelJobRequest request;
    request.set_name(name);
    const StatusOr<Job> job = Call(&Stub::GetQuantizeModelJob, request);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : Job();
  }
  Job WaitFor(const std::string& name, Job::State state) {
    for (;;) {
      const Job job = Get(name);
      if (job.state() == state || IsTerminal(job.state()) || HasFailure()) return job;
      usleep(10'000);
    }
  }
  // A job that works, and goes on whatever becomes of the store.
  std::string Running() {
    const std::string name = Submit(0, /*long_one=*/true);
    EXPECT_EQ(WaitFor(name, Job::RUNNING).state(), Job::RUNNING);
    return name;
  }
  void ExpectStillRunning(const std::string& name) {
    EXPECT_EQ(Get(name).state(), Job::RUNNING);
    EXPECT_EQ(Get(name).attempt(), 1);
  }
  // The running job can be stopped, another one comes to its end, and the next coordinator knows
  // them and every job of `others`.
  void ExpectAllIsWell(const std::string& running, const std::vector<std::string>& others) {
    ExpectStillRunning(running);
    const std::string last = Submit(1000);
    v1::CancelQuantizeModelJobRequest cancel;
    cancel.set_name(running);
    while (absl::IsUnavailable(Call(&Stub::CancelQuantizeModelJob, cancel).status())) {
    }
    EXPECT_EQ(WaitFor(running, Job::CANCELLED).state(), Job::CANCELLED);
    const Job done = WaitFor(last, Job::SUCCEEDED);
    EXPECT_EQ(done.state(), Job::SUCCEEDED) << done.error().message();
    EXPECT_EQ(Submit(1000), last);
    coordinator_->Kill();
    coordinator_->Start();
    stub_ = ConnectTo(coordinator_->port());
    EXPECT_EQ(Get(running).state(), Job::CANCELLED);
    EXPECT_EQ(Get(last).state(), Job::SUCCEEDED);
    EXPECT_EQ(ListJobs(*stub_)->size(), others.size() + 2);
    for (const std::string& name : others) EXPECT_EQ(Get(name).name(), name);
    EXPECT_EQ(Submit(0, /*long_one=*/true), running);  // its request id is known
  }
  void Tell(const std::vector<std::string>& command) {
    RedisConnection connection(*ParseRedisAddress(server_->address()), "", {});
    EXPECT_TRUE(connection.Call(command).ok());
  }

  ScratchFolder scratch_;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<CoordinatorProcess> coordinator_;
  std::unique_ptr<Stub> stub_;
};

TEST_F(RedisFaultsTest, TheServerIsAwayForAWhile) {
  const std::string running = Running();
  const std::string waiting = Submit(1);
  const auto data = server_->DataFiles();
  server_->Kill();
  // What is known is told from memory; nothing new is taken.
  ExpectStillRunning(running);
  EXPECT_EQ(ListJobs(*stub_)->size(), 2u);
  const auto refused =
      Call(&Stub::CreateQuantizeModelJob, NumberedRequest(scratch_.path(), 2)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), reason::kStoreUnavailable);
  server_->Start();
  const std::string second = Submit(2);
  // One that hangs, and comes back.
  server_->Freeze();
  ExpectStillRunning(running);
  EXPECT_EQ(ListJobs(*stub_)->size(), 3u);
  server_->Thaw();
  ExpectAllIsWell(running, {waiting, second, Submit(3)});
}

TEST_F(RedisFaultsTest, TheServerForgetsEverything) {
  const std::string running = Running();
  const std::string waiting = Submit(1);
  Tell({"FLUSHALL"});
  ExpectStillRunning(running);
  EXPECT_EQ(Submit(1), waiting);  // and its request id
  ExpectAllIsWell(running, {waiting, Submit(2)});
}

TEST_F(RedisFaultsTest, TheServerComesBackWithOlderData) {
  const auto empty = server_->DataFiles();
  const std::string running = Running();
  const auto old = server_->DataFiles();
  std::vector<std::string> others = {Submit(1), Submit(2)};
  for (const auto& data : {old, empty}) {
    server_->Kill();
    server_->Replace(data);
    server_->Start();
    EXPECT_EQ(Submit(1), others[0]);
    others.push_back(Submit(static_cast<int64_t>(others.size()) + 1));
  }
  ExpectAllIsWell(running, others);
}

TEST_F(RedisFaultsTest, AnotherCoordinatorTakesAnEmptiedServer) {
  const std::string running = Running();
  Tell({"FLUSHALL"});
  // Whether it restores its jobs before or after the second one starts: the first one stops.
  const CoordinatorProcess second(server_->address(), scratch_.path());
  EXPECT_EQ(coordinator_->Wait(), 1);
}

class StormTest : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Stores, StormTest, testing::Values("sqlite", "redis"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(StormTest, EveryRequestMakesOneJobWhateverBreaks) {
  const bool redis = std::string(GetParam()) == "redis";
  if (redis && !RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
  ScratchFolder scratch;
  std::unique_ptr<RedisServer> server;
  if (redis) server = std::make_unique<RedisServer>(scratch.path());
  CoordinatorProcess coordinator(redis ? server->address() : "sqlite:" + scratch.path() + "/jobs",
                                 scratch.path(), {"--jobs", "0"});
  const StatusOr<StormReport> report = RunStorm(coordinator, {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->jobs, 200);
  EXPECT_EQ(report->disagreeing, 0);
  EXPECT_EQ(report->unknown, 0);
  EXPECT_EQ(report->recovery.size(), 5u);
  EXPECT_GT(report->cut, 60);
  EXPECT_GT(report->failed, 60);
}

}  // namespace
}  // namespace cvxq
