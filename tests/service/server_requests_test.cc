// Requests of every kind: what is refused, each by its reason, what is tolerated, and lists.
#include <filesystem>
#include <functional>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/service/test_service.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

using ServerRequestsTest = TestOfService;

TEST_F(ServerRequestsTest, ValidatesWithoutMakingAnything) {
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

TEST_F(ServerRequestsTest, RefusesBadRequestsEachWithOneReason) {
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

TEST_F(ServerRequestsTest, RefusesPlacesOutsideTheAllowList) {
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
  request.mutable_quantize_model_job()->mutable_source()->set_uri("gs://bucket/model");
  ExpectReason(service.Create(request).status(), absl::StatusCode::kUnimplemented,
               reason::kStorageUnsupported);
}

TEST_F(ServerRequestsTest, BadNamesListsAndWatches) {
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

TEST_F(ServerRequestsTest, ListsByPageAndState) {
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

TEST_F(ServerRequestsTest, BoundsJobsAndWatches) {
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

TEST_F(ServerRequestsTest, RefusesLargeMessages) {
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

TEST_F(ServerRequestsTest, ToleratesFieldsItDoesNotKnow) {
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

}  // namespace
}  // namespace cvxq
