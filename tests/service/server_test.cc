// The service as its clients meet it: every RPC, every refusal by its reason, watches, restarts.
#include "service/api/server.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/log.h"
#include "tests/service/test_service.h"

namespace cvxq {
namespace {

using google::longrunning::Operation;
using testing::HasSubstr;

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    SetLogSink([](std::string_view) {});
  }
  ~ServerTest() override { SetLogSink(nullptr); }

  static v1::JobMetadata Metadata(const Operation& operation) {
    v1::JobMetadata metadata;
    EXPECT_TRUE(operation.metadata().UnpackTo(&metadata));
    return metadata;
  }
};

// Exactly one ErrorInfo, of our domain, and this reason.
void ExpectReason(const Status& status, absl::StatusCode code, const std::string& reason) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_EQ(ReasonOf(status), reason) << status;
  EXPECT_FALSE(status.message().empty());
  int infos = 0;
  const google::rpc::Status rich = ToRpcStatus(status);
  for (const auto& detail : rich.details()) {
    google::rpc::ErrorInfo info;
    if (!detail.UnpackTo(&info)) continue;
    ++infos;
    EXPECT_EQ(info.domain(), "cvxq");
  }
  EXPECT_EQ(infos, 1);
}

TEST_F(ServerTest, AJobFromCreationToDeletion) {
  TestService service;
  const auto operation = service.Create(service.Request("a"));
  ASSERT_TRUE(operation.ok()) << operation.status();
  EXPECT_EQ(operation->name(), "projects/p/operations/a");
  EXPECT_FALSE(operation->done());
  EXPECT_EQ(Metadata(*operation).job(), "projects/p/quantizeModelJobs/a");
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
      EXPECT_EQ(service.Finished(Metadata(*operation).job()).state(), Job::SUCCEEDED);
    }
  }
  request.mutable_quantize_model_job()->mutable_spec()->set_bits(4);
  ExpectReason(service.Create(request).status(), absl::StatusCode::kInvalidArgument,
               reason::kRequestIdReused);
  // Another project knows nothing of it.
  request.set_parent("projects/q");
  EXPECT_TRUE(service.Create(request).ok());
}

TEST_F(ServerTest, ValidatesWithoutMakingAnything) {
  TestService service;
  auto request = service.Request("a");
  request.set_validate_only(true);
  // The model's folder is empty.
  ExpectReason(service.Create(request).status(), absl::StatusCode::kNotFound,
               reason::kFileNotFound);
  const std::string example = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
  std::filesystem::remove(service.model_);
  std::filesystem::copy(example, service.model_);
  EXPECT_TRUE(service.Create(request).ok());
  std::filesystem::create_directory(service.Path("out-a"));
  ExpectReason(service.Create(request).status(), absl::StatusCode::kAlreadyExists,
               reason::kOutputExists);
  ExpectReason(service.Get("a").status(), absl::StatusCode::kNotFound, reason::kJobNotFound);
}

TEST_F(ServerTest, RefusesBadRequestsEachWithOneReason) {
  TestService service;
  using Edit = std::function<void(v1::CreateQuantizeModelJobRequest&)>;
  const auto spec = [](v1::CreateQuantizeModelJobRequest& r) {
    return r.mutable_quantize_model_job()->mutable_spec();
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::pair<const char*, Edit> bad[] = {
      {"parent", [](auto& r) { r.set_parent(""); }},
      {"parent", [](auto& r) { r.set_parent("projects/"); }},
      {"parent", [](auto& r) { r.set_parent("projects/../x"); }},
      {"quantize_model_job_id", [](auto& r) { r.set_quantize_model_job_id("Upper"); }},
      {"quantize_model_job_id", [](auto& r) { r.set_quantize_model_job_id("a-"); }},
      {"quantize_model_job_id", [](auto& r) { r.set_quantize_model_job_id(std::string(64, 'a')); }},
      {"request_id", [](auto& r) { r.set_request_id("7"); }},
      {"request_id", [](auto& r) { r.set_request_id("00000000-0000-1000-8000-000000000000"); }},
      {"quantize_model_job", [](auto& r) { r.clear_quantize_model_job(); }},
      {"source.uri", [](auto& r) { r.mutable_quantize_model_job()->clear_source(); }},
      {"source.uri",
       [](auto& r) { r.mutable_quantize_model_job()->mutable_source()->set_uri("x"); }},
      {"source.uri",
       [](auto& r) { r.mutable_quantize_model_job()->mutable_source()->set_uri("/a/../etc"); }},
      {"source.uri",
       [](auto& r) { r.mutable_quantize_model_job()->mutable_source()->set_uri("/a\nb"); }},
      {"source.uri",
       [](auto& r) {
         r.mutable_quantize_model_job()->mutable_source()->set_uri("/" + std::string(5000, 'a'));
       }},
      {"source.revision",
       [](auto& r) { r.mutable_quantize_model_job()->mutable_source()->set_revision("1"); }},
      {"output.uri", [](auto& r) { r.mutable_quantize_model_job()->clear_output(); }},
      {"spec.bits", [&](auto& r) { spec(r)->clear_bits(); }},
      {"spec.bits", [&](auto& r) { spec(r)->set_bits(0); }},
      {"spec.bits", [&](auto& r) { spec(r)->set_bits(8.5); }},
      {"spec.bits", [&](auto& r) { spec(r)->set_bits(nan); }},
      {"spec.size_bytes", [&](auto& r) { spec(r)->set_size_bytes(-1); }},
      {"spec.codec",
       [&](auto& r) { spec(r)->set_codec(static_cast<v1::QuantizeSpec::Codec>(77)); }},
      {"spec.iterations", [&](auto& r) { spec(r)->set_iterations(-1); }},
      {"spec.shrinkage", [&](auto& r) { spec(r)->set_shrinkage(1); }},
      {"spec.damping", [&](auto& r) { spec(r)->set_damping(nan); }},
      {"spec.group_rows", [&](auto& r) { spec(r)->set_group_rows(0); }},
      {"calibration.samples", [&](auto& r) { spec(r)->mutable_calibration()->set_samples(-1); }},
      {"calibration.seq_len", [&](auto& r) { spec(r)->mutable_calibration()->set_seq_len(1); }},
      {"calibration.inputs[0].uri", [&](auto& r) { spec(r)->mutable_calibration()->add_inputs(); }},
      {"resources.threads",
       [](auto& r) { r.mutable_quantize_model_job()->mutable_resources()->set_threads(-1); }},
  };
  for (const auto& [field, edit] : bad) {
    SCOPED_TRACE(field);
    auto request = service.Request("a");
    edit(request);
    const Status status = service.Create(request).status();
    ExpectReason(status, absl::StatusCode::kInvalidArgument, reason::kBadRequest);
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
    google::rpc::BadRequest details;
    const google::rpc::Status rich = ToRpcStatus(status);
    for (const auto& detail : rich.details()) detail.UnpackTo(&details);
    ASSERT_GE(details.field_violations_size(), 1);
    EXPECT_THAT(details.field_violations(0).field(), HasSubstr(field));
  }
  // All that is wrong is told at once, and an error always fits into its headers.
  auto request = service.Request("a");
  request.mutable_quantize_model_job()->clear_source();
  for (int i = 0; i < 900; ++i) spec(request)->mutable_calibration()->add_inputs();
  const Status many = service.Create(request).status();
  ExpectReason(many, absl::StatusCode::kInvalidArgument, reason::kBadRequest);
  EXPECT_THAT(std::string(many.message()), HasSubstr("and 900 more"));
}

TEST_F(ServerTest, RefusesPlacesOutsideTheAllowList) {
  TestService service;
  std::filesystem::create_directory_symlink("/etc", service.Path("link"));
  for (const std::string& uri : {std::string("/etc"), std::string("file:///"),
                                 service.scratch_.path() + "x", service.Path("link/ssl")}) {
    SCOPED_TRACE(uri);
    auto request = service.Request("a");
    request.mutable_quantize_model_job()->mutable_source()->set_uri(uri);
    ExpectReason(service.Create(request).status(), absl::StatusCode::kPermissionDenied,
                 reason::kStorageDenied);
    request = service.Request("a");
    request.mutable_quantize_model_job()->mutable_output()->set_uri(uri);
    ExpectReason(service.Create(request).status(), absl::StatusCode::kPermissionDenied,
                 reason::kStorageDenied);
    request = service.Request("a");
    request.mutable_quantize_model_job()
        ->mutable_spec()
        ->mutable_calibration()
        ->add_inputs()
        ->set_uri(uri);
    ExpectReason(service.Create(request).status(), absl::StatusCode::kPermissionDenied,
                 reason::kStorageDenied);
  }
  auto request = service.Request("a");
  request.mutable_quantize_model_job()->mutable_source()->set_uri("s3://bucket/model");
  ExpectReason(service.Create(request).status(), absl::StatusCode::kUnimplemented,
               reason::kStorageUnsupported);
}

TEST_F(ServerTest, BadNamesListsAndWatches) {
  TestService service;
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  ExpectReason(service.Create(service.Request("a")).status(), absl::StatusCode::kAlreadyExists,
               reason::kJobExists);
  for (const char* name : {"projects/p/jobs/a", "projects/p/quantizeModelJobs/",
                           "projects//quantizeModelJobs/a", "projects/p/quantizeModelJobs/a/b"}) {
    ExpectReason(service.Get(name).status(), absl::StatusCode::kInvalidArgument,
                 reason::kBadRequest);
  }
  ExpectReason(service.Cancel("b").status(), absl::StatusCode::kNotFound, reason::kJobNotFound);
  ExpectReason(service.Delete("a"), absl::StatusCode::kFailedPrecondition, reason::kJobNotEnded);
  std::vector<v1::JobEvent> events;
  ExpectReason(service.Watch("b", 0, events), absl::StatusCode::kNotFound, reason::kJobNotFound);
  ExpectReason(service.Watch("a", 99, events), absl::StatusCode::kOutOfRange,
               reason::kRevisionUnknown);
  ExpectReason(service.Watch("a", -1, events), absl::StatusCode::kInvalidArgument,
               reason::kBadRequest);
  v1::ListQuantizeModelJobsRequest list;
  const auto refuse_list = [&] {
    ExpectReason(
        service.Call(*service.stub_, &TestService::Stub::ListQuantizeModelJobs, list).status(),
        absl::StatusCode::kInvalidArgument, reason::kBadRequest);
  };
  refuse_list();
  list.set_parent("projects/p");
  list.set_page_size(-1);
  refuse_list();
  list.set_page_size(0);
  for (const char* filter : {"state", "state = ", "state = GONE", "name = x", "state = RUNNING AND",
                             "state = STATE_UNSPECIFIED"}) {
    list.set_filter(filter);
    refuse_list();
  }
  list.set_filter("");
  list.set_page_token("nonsense");
  refuse_list();
}

TEST_F(ServerTest, ListsByPageAndState) {
  TestService service;
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(service.Create(service.Request(absl::StrCat("j", 10 + i))).ok());
  }
  service.work_.WaitUntilBegun(1);
  for (const char* id : {"j15", "j16"}) ASSERT_TRUE(service.Cancel(id).ok());
  const auto list = [&](const std::string& filter, int page_size) {
    std::vector<std::string> ids;
    v1::ListQuantizeModelJobsRequest request;
    request.set_parent("projects/p");
    request.set_filter(filter);
    request.set_page_size(page_size);
    for (;;) {
      const auto page =
          service.Call(*service.stub_, &TestService::Stub::ListQuantizeModelJobs, request);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) return ids;
      EXPECT_LE(page->quantize_model_jobs_size(), page_size);
      for (const Job& job : page->quantize_model_jobs()) ids.push_back(job.name().substr(29));
      if (page->next_page_token().empty()) return ids;
      request.set_page_token(page->next_page_token());
    }
  };
  EXPECT_EQ(list("", 5).size(), 12u);
  EXPECT_THAT(list("state = CANCELLED", 1), testing::ElementsAre("j15", "j16"));
  EXPECT_EQ(list("state != CANCELLED", 3).size(), 10u);
  EXPECT_EQ(list("state = CANCELLED OR state = QUEUED AND state != CANCELLED", 3).size(), 9u);
  // A token belongs to its list.
  v1::ListQuantizeModelJobsRequest request;
  request.set_parent("projects/p");
  request.set_page_size(2);
  const auto page =
      service.Call(*service.stub_, &TestService::Stub::ListQuantizeModelJobs, request);
  request.set_page_token(page->next_page_token());
  request.set_filter("state = QUEUED");
  ExpectReason(
      service.Call(*service.stub_, &TestService::Stub::ListQuantizeModelJobs, request).status(),
      absl::StatusCode::kInvalidArgument, reason::kBadRequest);
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

TEST_F(ServerTest, BoundsJobsAndWatches) {
  ServerOptions options;
  options.most_watches = 1;
  TestService service(options, {.most_active = 2, .most_kept = 3});
  for (const char* id : {"a", "b"}) ASSERT_TRUE(service.Create(service.Request(id)).ok());
  ExpectReason(service.Create(service.Request("c")).status(), absl::StatusCode::kResourceExhausted,
               reason::kTooManyJobs);
  service.work_.WaitUntilBegun(1);
  ASSERT_TRUE(service.Cancel("b").ok());
  ASSERT_TRUE(service.Create(service.Request("c")).ok());
  ASSERT_TRUE(service.Cancel("c").ok());
  ExpectReason(service.Create(service.Request("d")).status(), absl::StatusCode::kResourceExhausted,
               reason::kTooManyJobs);

  grpc::ClientContext context;
  v1::WatchQuantizeModelJobRequest request;
  request.set_name(TestService::Name("a"));
  const auto reader = service.stub_->WatchQuantizeModelJob(&context, request);
  v1::JobEvent event;
  ASSERT_TRUE(reader->Read(&event));
  std::vector<v1::JobEvent> events;
  ExpectReason(service.Watch("a", 0, events), absl::StatusCode::kResourceExhausted,
               reason::kTooManyWatches);
  context.TryCancel();
  reader->Finish();
}

TEST_F(ServerTest, RefusesLargeMessages) {
  TestService service;
  auto request = service.Request("a");
  auto& calibration = *request.mutable_quantize_model_job()->mutable_spec()->mutable_calibration();
  calibration.set_field(std::string(300 << 10, 'x'));
  ExpectReason(service.Create(request).status(), absl::StatusCode::kInvalidArgument,
               reason::kRequestTooLarge);
  // Beyond the transport's own limit it is the transport that answers.
  calibration.set_field(std::string(8 << 20, 'x'));
  EXPECT_EQ(service.Create(request).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(service.Create(service.Request("a")).ok());
}

TEST_F(ServerTest, ToleratesFieldsItDoesNotKnow) {
  TestService service;
  auto request = service.Request("a");
  request.set_request_id(NewUuid());
  request.GetReflection()->MutableUnknownFields(&request)->AddVarint(999, 7);
  Job& job = *request.mutable_quantize_model_job();
  job.GetReflection()->MutableUnknownFields(&job)->AddLengthDelimited(999, "new");
  ASSERT_TRUE(service.Create(request).ok());
  // They do not make it another request, and what the service decides is not the client's.
  job.set_state(Job::SUCCEEDED);
  job.set_name("projects/x/quantizeModelJobs/y");
  EXPECT_EQ(service.Create(request)->name(), "projects/p/operations/a");
  const Job kept = *service.Get("a");
  EXPECT_NE(kept.state(), Job::SUCCEEDED);
  EXPECT_TRUE(kept.GetReflection()->GetUnknownFields(kept).empty());
}

TEST_F(ServerTest, CountsItsWork) {
  TestService service;
  service.work_.Release(1);
  ASSERT_TRUE(service.Create(service.Request("a")).ok());
  EXPECT_EQ(service.Finished("a").state(), Job::SUCCEEDED);
  ExpectReason(service.Get("b").status(), absl::StatusCode::kNotFound, reason::kJobNotFound);
  const std::map<Job::State, int64_t> jobs = service.coordinator_->jobs().CountByState();
  service.Stop();  // a job's end is told before it is counted
  const std::string text = service.metrics_->Text(jobs);
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
