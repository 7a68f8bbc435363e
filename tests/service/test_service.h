// A whole coordinator with its server in this process, for tests that are its clients.
#ifndef CVXQ_TESTS_SERVICE_TEST_SERVICE_H_
#define CVXQ_TESTS_SERVICE_TEST_SERVICE_H_

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "cvxq/v1/quantization_service.grpc.pb.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "gtest/gtest.h"
#include "service/api/grpc_status.h"
#include "service/api/server.h"
#include "service/errors.h"
#include "service/local_executor.h"
#include "service/log.h"
#include "service/uuid.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/service/fake_work.h"
#include "tests/service/memory_store.h"

namespace cvxq {

class TestService {
 public:
  explicit TestService(ServerOptions options = {}, CoordinatorOptions coordinator = {})
      : options_(std::move(options)), coordinator_options_(std::move(coordinator)) {
    options_.listen = "127.0.0.1:0";
    model_ = scratch_.path() + "/model";
    std::filesystem::create_directory(model_);
    Start();
  }
  ~TestService() { Stop(); }

  // A new coordinator on the same store, as after a restart; on another port.
  void Start() {
    policy_ = *StoragePolicy::Make({scratch_.path(), "s3://bucket/allowed"});
    LocalExecutorOptions options;
    options.report_interval = absl::Milliseconds(1);
    options.quantize = [this](const QuantizeOptions& of_job, Progress& progress) {
      return work_(of_job, progress);
    };
    executor_ = std::make_unique<LocalExecutor>(policy_, options);
    metrics_ = std::make_unique<Metrics>("test");
    auto coordinator =
        Coordinator::Start(store_, *executor_, policy_, *metrics_, coordinator_options_);
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = *std::move(coordinator);
    auto server = ApiServer::Start(*coordinator_, options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    Connect(grpc::InsecureChannelCredentials());
  }
  void Stop() {
    server_.reset();
    coordinator_.reset();
    executor_.reset();
  }
  void Connect(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    // Each test has its own server: no connections are shared behind its back.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
    channel_ = grpc::CreateCustomChannel(address(), credentials, arguments);
    stub_ = v1::QuantizationService::NewStub(channel_);
    operations_ = google::longrunning::Operations::NewStub(channel_);
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  std::string Path(const std::string& name) const { return scratch_.path() + "/" + name; }

  // A request that is right in every way.
  v1::CreateQuantizeModelJobRequest Request(const std::string& id = "") const {
    v1::CreateQuantizeModelJobRequest request;
    request.set_parent("projects/p");
    request.set_quantize_model_job_id(id);
    Job& job = *request.mutable_quantize_model_job();
    job.mutable_source()->set_uri("file://" + model_);
    job.mutable_output()->set_uri(Path("out-" + (id.empty() ? NewUuid() : id)));
    job.mutable_spec()->set_bits(3);
    return request;
  }

  // One call, with `token_` unless it is empty; the answer, or the error with its details.
  template <typename Response, typename Stub, typename Request>
  StatusOr<Response> Call(Stub& stub,
                          grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                       Response*),
                          const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!token_.empty()) context.AddMetadata("authorization", "Bearer " + token_);
    Response response;
    const Status status = FromGrpcStatus((stub.*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  using Stub = v1::QuantizationService::Stub;
  using Operations = google::longrunning::Operations::Stub;
  StatusOr<google::longrunning::Operation> Create(
      const v1::CreateQuantizeModelJobRequest& request) {
    return Call(*stub_, &Stub::CreateQuantizeModelJob, request);
  }
  StatusOr<Job> Get(const std::string& id) {
    v1::GetQuantizeModelJobRequest request;
    request.set_name(Name(id));
    return Call(*stub_, &Stub::GetQuantizeModelJob, request);
  }
  StatusOr<Job> Cancel(const std::string& id) {
    v1::CancelQuantizeModelJobRequest request;
    request.set_name(Name(id));
    return Call(*stub_, &Stub::CancelQuantizeModelJob, request);
  }
  Status Delete(const std::string& id) {
    v1::DeleteQuantizeModelJobRequest request;
    request.set_name(Name(id));
    return Call(*stub_, &Stub::DeleteQuantizeModelJob, request).status();
  }
  // All events after a revision until the stream ends, or `most` of them; how it ended.
  Status Watch(const std::string& id, int64_t after, std::vector<v1::JobEvent>& events,
               size_t most = static_cast<size_t>(-1)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!token_.empty()) context.AddMetadata("authorization", "Bearer " + token_);
    v1::WatchQuantizeModelJobRequest request;
    request.set_name(Name(id));
    request.set_after_revision(after);
    const auto reader = stub_->WatchQuantizeModelJob(&context, request);
    v1::JobEvent event;
    for (size_t i = 0; i < most && reader->Read(&event); ++i) events.push_back(event);
    if (events.size() >= most) context.TryCancel();
    return FromGrpcStatus(reader->Finish());
  }
  // The job once it has ended.
  Job Finished(const std::string& id) {
    std::vector<v1::JobEvent> events;
    EXPECT_EQ(Watch(id, 0, events), absl::OkStatus());
    const StatusOr<Job> job = Get(id);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : Job();
  }
  static std::string Name(const std::string& id) {
    return id.starts_with("projects") ? id : "projects/p/quantizeModelJobs/" + id;
  }

  ScratchFolder scratch_;
  MemoryStore store_;
  FakeWork work_;
  ServerOptions options_;
  CoordinatorOptions coordinator_options_;
  std::string model_, token_;
  StoragePolicy policy_ = *StoragePolicy::Make({});
  std::unique_ptr<LocalExecutor> executor_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<ApiServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Stub> stub_;
  std::unique_ptr<Operations> operations_;
};

// Tests whose coordinators log nothing.
class TestOfService : public testing::Test {
 protected:
  TestOfService() {
    SetLogSink([](std::string_view) {});
  }
  ~TestOfService() override { SetLogSink(nullptr); }
};

inline v1::JobMetadata MetadataOf(const google::longrunning::Operation& operation) {
  v1::JobMetadata metadata;
  EXPECT_TRUE(operation.metadata().UnpackTo(&metadata));
  return metadata;
}

// Exactly one ErrorInfo, of our domain, and this reason.
inline void ExpectReason(const Status& status, absl::StatusCode code, const std::string& reason) {
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

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_TEST_SERVICE_H_
