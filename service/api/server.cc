#include "service/api/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include "service/api/credentials.h"
#include "service/api/operations_api.h"
#include "service/api/quantization_api.h"
#include "service/api/without_reflection.h"

namespace cvxq {
namespace {

// The hard limit of a message; smaller ones that are still too large get a reason (call.h).
constexpr int kLargestMessage = 4 << 20;
constexpr int kLargestMetadata = 16 << 10;
constexpr int kMostStreamsOfConnection = 1000;
constexpr int kSpareThreads = 256;  // beside those of watches

constexpr const char* kServices[] = {"cvxq.v1.QuantizationService",
                                     "google.longrunning.Operations"};

void SetLimits(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kLargestMessage);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kLargestMetadata);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMostStreamsOfConnection);
  // Two servers on one port would share it in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients that vanish without a word are noticed, and those that ask often are not thrown out.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  grpc::ResourceQuota quota("cvxq");
  quota.SetMaxThreads(options.most_watches + kSpareThreads);
  builder.SetResourceQuota(quota);
}

}  // namespace

struct ApiServer::Services {
  explicit Services(ApiContext& api) : quantization(api), operations(api) {}
  QuantizationApi quantization;
  OperationsApi operations;
};

ApiServer::ApiServer(Coordinator& coordinator, Access access, const ServerOptions& options)
    : api_{coordinator, std::move(access), RateLimit(options.rate), options.largest_request,
           options.most_watches},
      drain_(options.drain) {}

StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(Coordinator& coordinator,
                                                      const ServerOptions& options) {
  CVXQ_ASSIGN_OR_RETURN(const auto credentials,
                        ServerCredentials(options.listen, {.certificate = options.certificate,
                                                           .key = options.key,
                                                           .authority = options.client_ca}));
  Access access;
  if (!options.tokens.empty()) {
    CVXQ_ASSIGN_OR_RETURN(access, Access::Parse(options.tokens));
  }
  std::unique_ptr<ApiServer> api(new ApiServer(coordinator, std::move(access), options));
  api->services_ = std::make_unique<Services>(api->api_);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(options, builder);
  builder.AddListeningPort(options.listen, credentials, &api->port_);
  builder.RegisterService(&api->services_->quantization);
  builder.RegisterService(&api->services_->operations);
  api->server_ = builder.BuildAndStart();
  if (api->server_ == nullptr || api->port_ == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen,
                     ": the address is taken or not of this machine, or a certificate is bad"));
  }
  api->SetServing(true);
  return api;
}

ApiServer::~ApiServer() { Shutdown(); }

void ApiServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  for (const char* service : kServices) health->SetServingStatus(service, serving);
  health->SetServingStatus(serving);
}

void ApiServer::Shutdown() {
  if (server_ == nullptr) return;
  SetServing(false);
  api_.coordinator.jobs().CloseWatches();
  server_->Shutdown(absl::ToChronoTime(absl::Now() + drain_));
  server_->Wait();
  server_.reset();
}

}  // namespace cvxq
