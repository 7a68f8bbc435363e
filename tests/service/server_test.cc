// The service as its clients meet it: jobs from creation to deletion, watches, operations,
// restarts. (server_requests_test.cc has what is refused.)
#include "service/api/server.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/service/test_service.h"

namespace cvxq {
namespace {

using testing::HasSubstr;
using testing::Not;

using ServerTest = TestOfService;

TEST_F(ServerTest, AJobFromCreationToDeletion) {
  TestService service;
  const auto operation = service.Create(service.Request("a"));
  ASSERT_TRUE(operation.ok()) << operation.status();
  EXPECT_EQ(operation->name(), "projects/p/operations/a");
  EXPECT_FALSE(operation->done());
  EXPECT_EQ(MetadataOf(*operation).job(), "projects/p/quantizeModelJobs/a");
  service.work_.WaitUntilBegun(1);
  service.work_.Release(1);
  const Job job = service.Finished("a");
  EXPECT_EQ(job.state(), Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_EQ(job.progress().percent(), 100);
  EXPECT_EQ(job.result().uri(), service.Path("out-a"));
  ASSERT_EQ(job.result().files_size(), 1);
  EXPECT_EQ(job.result().files(0).path(), "model.safetensors");
  EXPECT_TRUE(std::filesystem::exists(service.Path("out-a/model.safetensors")));
  EXPECT_EQ(service.Delete("a"), absl::OkStatus());
  ExpectReason(service.Get("a").status(), absl::StatusCode::kNotFound, reason::kJobNotFound);
  ExpectReason(service.Delete("a"), absl::StatusCode::kNotFound, reason::kJobNotFound);
  EXPECT_TRUE(std::filesystem::exists(service.Path("out-a/model.safetensors")));
}

TEST_F(ServerTest, ARequestIdMakesOneJob) {
  TestService service;
  auto request = service.Request();
  request.set_request_id(NewUuid());
  std::string name;
  for (int i = 0; i < 3; ++i) {
    const auto operation = service.Create(request);
    ASSERT_TRUE(operation.ok()) << operation.status();
    if (i == 0) name = operation->name();
    EXPECT_EQ(operation->name(), name);
    if (i == 1) {  // also when the job has ended meanwhile
      service.work_.Release(1);
      EXPECT_EQ(service.Finished(MetadataOf(*operation).job()).state(), Job::SUCCEEDED);
    }
  }
  request.mutable_quantize_model_job()->mutable_spec()->set_bits(4);
  ExpectReason(service.Create(request).status(), absl::StatusCode::kInvalidArgument,
               reason::kRequestIdReused);
  // Another project knows nothing of it.
  request.set_parent("projects/q");
  EXPECT_TRUE(service.Create(request).ok());
}

TEST_F(ServerTest, CancelsWhatWaitsAndWhatRuns) {
  TestService service;
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(service.Create(service.Request(id)).ok());
  service.work_.WaitUntilBegun(1);
  EXPECT_EQ(service.Cancel("b")->state(), Job::CANCELLED);
  const auto cancelling = service.Cancel("a");
  ASSERT_TRUE(cancelling.ok());
  EXPECT_THAT(cancelling->state(), testing::AnyOf(Job::CANCELLING, Job::CANCELLED));
  EXPECT_EQ(service.Finished("a").state(), Job::CANCELLED);
  EXPECT_FALSE(std::filesystem::exists(service.Path("out-a")));
  // The others go on.
  service.work_.WaitUntilBegun(2);
  service.work_.Release(1);
  EXPECT_EQ(service.Finished("c").state(), Job::SUCCEEDED);
  for (const char* id : {"a", "b", "c"}) {
    ExpectReason(service.Cancel(id).status(), absl::StatusCode::kFailedPrecondition,
                 reason::kJobEnded);
  }
}

TEST_F(ServerTest, AJobFailsForItselfWithOneError) {
  TestService service;
  service.work_.FailNext(absl::DataLossError("model.safetensors is cut off"));
  service.work_.Release(3);
  for (const char* id : {"a", "b"}) ASSERT_TRUE(service.Create(service.Request(id)).ok());
  const Job job = service.Finished("a");
  EXPECT_EQ(job.state(), Job::FAILED);
  ExpectReason(FromRpcStatus(job.error()), absl::StatusCode::kDataLoss, reason::kFileDamaged);
  EXPECT_EQ(service.Finished("b").state(), Job::SUCCEEDED);
  // An output that exists by the time the job publishes.
  auto request = service.Request("c");
  request.mutable_quantize_model_job()->mutable_output()->set_uri(service.Path("out-b"));
  ASSERT_TRUE(service.Create(request).ok());
  const Job taken = service.Finished("c");
  EXPECT_EQ(taken.state(), Job::FAILED);
  ExpectReason(FromRpcStatus(taken.error()), absl::StatusCode::kAlreadyExists,
               reason::kOutputExists);
}

TEST_F(ServerTest, NoticesASourceThatChanges) {
  TestService service;
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  service.work_.WaitUntilBegun(1);
  std::ofstream(service.model_ + "/config.json") << "{}";
  service.work_.Release(1);
  const Job job = service.Finished("a");
  EXPECT_EQ(job.state(), Job::FAILED);
  ExpectReason(FromRpcStatus(job.error()), absl::StatusCode::kFailedPrecondition,
               reason::kSourceChanged);
  EXPECT_FALSE(std::filesystem::exists(service.Path("out-a")));
}

TEST_F(ServerTest, WatchesResumeWithoutLossOrRepetition) {
  TestService service;
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  constexpr int kWatchers = 12;
  std::vector<std::vector<int64_t>> seen(kWatchers);
  std::vector<std::thread> watchers;
  for (int w = 0; w < kWatchers; ++w) {
    watchers.emplace_back([&, w] {
      for (bool ended = false; !ended;) {
        std::vector<v1::JobEvent> events;
        const int64_t last = seen[w].empty() ? 0 : seen[w].back();
        const Status status = service.Watch("a", last, events, static_cast<size_t>(2 + w % 4));
        ended = status.ok();
        for (const v1::JobEvent& event : events) {
          if (!event.has_bookmark()) seen[w].push_back(event.revision());
        }
      }
    });
  }
  service.work_.WaitUntilBegun(1);
  service.work_.Release(1);
  for (std::thread& watcher : watchers) watcher.join();
  std::vector<int64_t> all;
  for (int64_t i = 1; i <= service.Get("a")->revision(); ++i) all.push_back(i);
  EXPECT_GE(all.size(), 5u);
  for (const auto& of_one : seen) EXPECT_EQ(of_one, all);
}

TEST_F(ServerTest, Operations) {
  TestService service;
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(service.Create(service.Request(id)).ok());
  using Stub = TestService::Operations;
  google::longrunning::GetOperationRequest get;
  get.set_name("projects/p/operations/a");
  EXPECT_FALSE(service.Call(*service.operations_, &Stub::GetOperation, get)->done());
  google::longrunning::WaitOperationRequest wait;
  wait.set_name("projects/p/operations/a");
  wait.mutable_timeout()->set_nanos(1'000'000);
  EXPECT_FALSE(service.Call(*service.operations_, &Stub::WaitOperation, wait)->done());
  service.work_.Release(1);
  wait.mutable_timeout()->set_seconds(60);
  const auto done = service.Call(*service.operations_, &Stub::WaitOperation, wait);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(done->done());
  Job job;
  ASSERT_TRUE(done->response().UnpackTo(&job));
  EXPECT_EQ(job.state(), Job::SUCCEEDED);

  google::longrunning::CancelOperationRequest cancel;
  cancel.set_name("projects/p/operations/c");
  EXPECT_TRUE(service.Call(*service.operations_, &Stub::CancelOperation, cancel).ok());
  get.set_name("projects/p/operations/c");
  const auto cancelled = service.Call(*service.operations_, &Stub::GetOperation, get);
  EXPECT_TRUE(cancelled->done());
  EXPECT_EQ(cancelled->error().code(), static_cast<int>(absl::StatusCode::kCancelled));

  google::longrunning::ListOperationsRequest list;
  list.set_name("projects/p");
  EXPECT_EQ(service.Call(*service.operations_, &Stub::ListOperations, list)->operations_size(), 3);
  google::longrunning::DeleteOperationRequest remove;
  remove.set_name("projects/p/operations/c");
  EXPECT_TRUE(service.Call(*service.operations_, &Stub::DeleteOperation, remove).ok());
  ExpectReason(service.Call(*service.operations_, &Stub::GetOperation, get).status(),
               absl::StatusCode::kNotFound, reason::kJobNotFound);
  get.set_name("operations/a");
  ExpectReason(service.Call(*service.operations_, &Stub::GetOperation, get).status(),
               absl::StatusCode::kInvalidArgument, reason::kBadRequest);
}

TEST_F(ServerTest, ARestartedCoordinatorGoesOn) {
  TestService service;
  auto request = service.Request("b");
  request.set_request_id(NewUuid());
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  ASSERT_TRUE(service.Create(request).ok());
  ASSERT_TRUE(service.Create(service.Request("c")).ok());
  ASSERT_TRUE(service.Cancel("c").ok());
  service.work_.WaitUntilBegun(1);
  service.Stop();
  EXPECT_FALSE(std::filesystem::exists(service.Path("out-a")));
  service.Start();
  EXPECT_EQ(service.Create(request)->name(), "projects/p/operations/b");
  service.work_.Release(2);
  const Job a = service.Finished("a");
  EXPECT_EQ(a.state(), Job::SUCCEEDED);
  EXPECT_EQ(a.attempt(), 2);
  EXPECT_EQ(service.Finished("b").state(), Job::SUCCEEDED);
  EXPECT_EQ(service.Get("c")->state(), Job::CANCELLED);
}

// Lost between the right to publish and the word that it is done.
TEST_F(ServerTest, APublicationThatWasInterruptedIsSettledByWhatIsThere) {
  enum class Output { kNone, kOurs, kOther };
  for (const Output output : {Output::kNone, Output::kOurs, Output::kOther}) {
    TestService service;
    ASSERT_TRUE(service.Create(service.Request("a")).ok());
    service.work_.WaitUntilBegun(1);
    service.Stop();
    {
      const auto jobs = *JobStore::Open(service.store_, {});
      JobInput publish{.kind = JobInput::Kind::kPublish, .attempt = 1};
      auto* file = publish.result.add_files();
      file->set_path("f");
      // Of the two bytes "ok".
      file->set_sha256("2689367b205c16ce32ed4200942b8b8b1e262dfc70d9bc9fbc77c49699a4f1df");
      JobInput run{.kind = JobInput::Kind::kRun, .attempt = 1};
      ASSERT_TRUE(jobs->Apply(TestService::Name("a"), run).ok());
      ASSERT_TRUE(jobs->Apply(TestService::Name("a"), publish).ok());
    }
    if (output != Output::kNone) {
      service.scratch_.Write("out-a/f", output == Output::kOurs ? "ok" : "other");
    }
    service.Start();
    service.work_.Release(1);
    const Job job = service.Finished("a");
    EXPECT_EQ(job.state(), output == Output::kOther ? Job::FAILED : Job::SUCCEEDED);
    EXPECT_EQ(job.attempt(), output == Output::kNone ? 2 : 1);
    if (output == Output::kOther) {
      EXPECT_EQ(ReasonOf(FromRpcStatus(job.error())), reason::kOutputExists);
    }
  }
}

TEST_F(ServerTest, ShutdownEndsWatchesAndWaits) {
  TestService service;
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  service.work_.WaitUntilBegun(1);
  Status watched, waited;
  std::thread watcher([&] {
    std::vector<v1::JobEvent> events;
    watched = service.Watch("a", 0, events);
  });
  std::thread waiter([&] {
    google::longrunning::WaitOperationRequest wait;
    wait.set_name("projects/p/operations/a");
    waited =
        service.Call(*service.operations_, &TestService::Operations::WaitOperation, wait).status();
  });
  // Both have come when the metrics count them.
  while (service.coordinator_->metrics().Text({}).find("cvxq_watches 2") == std::string::npos) {
    std::this_thread::yield();
  }
  service.server_->Shutdown();
  watcher.join();
  waiter.join();
  ExpectReason(watched, absl::StatusCode::kUnavailable, reason::kShuttingDown);
  ExpectReason(waited, absl::StatusCode::kUnavailable, reason::kShuttingDown);
}

TEST_F(ServerTest, ALostEpochRefusesWrites) {
  TestService service;
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  service.work_.WaitUntilBegun(1);
  ASSERT_TRUE(service.store_.ClaimEpoch("another").ok());
  ExpectReason(service.Create(service.Request("b")).status(), absl::StatusCode::kUnavailable,
               reason::kNotLeader);
  // Its work comes to an end that nobody learns, and publishes nothing.
  service.work_.Release(1);
  service.Stop();
  EXPECT_FALSE(std::filesystem::exists(service.Path("out-a")));
}

TEST_F(ServerTest, CountsItsWork) {
  TestService service;
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  // While it runs, its figures are told.
  const std::string size = "cvxq_job_size_ratio{name=\"" + TestService::Name("a") + "\"} 1.25";
  while (service.metrics_->Text(service.coordinator_->View()).find(size) == std::string::npos) {
    std::this_thread::yield();
  }
  service.work_.Release(1);
  EXPECT_EQ(service.Finished("a").state(), Job::SUCCEEDED);
  ExpectReason(service.Get("b").status(), absl::StatusCode::kNotFound, reason::kJobNotFound);
  const MetricsView view = service.coordinator_->View();
  service.Stop();  // a job's end is told before it is counted
  const std::string text = service.metrics_->Text(view);
  EXPECT_THAT(text, Not(HasSubstr("cvxq_job_size_ratio")));
  for (const char* line :
       {"cvxq_build_info{version=\"test\"} 1", "cvxq_jobs{state=\"succeeded\"} 1",
        "cvxq_jobs{state=\"queued\"} 0", "cvxq_job_duration_seconds_count{state=\"succeeded\"} 1",
        "cvxq_job_attempts_total 1", "cvxq_leader 1", "method=\"CreateQuantizeModelJob\"",
        "code=\"NOT_FOUND\""}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace cvxq
