#include "service/api/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "service/api/operations_api.h"
#include "service/api/quantization_api.h"

namespace cvxq {
namespace {

// The hard limit of a message; smaller ones that are still too large get a reason (call.h).
constexpr int kLargestMessage = 4 << 20;
constexpr int kLargestMetadata = 16 << 10;
constexpr int kMostStreamsOfConnection = 1000;
constexpr int kSpareThreads = 256;  // beside those of watches

constexpr const char* kServices[] = {"cvxq.v1.QuantizationService",
                                     "google.longrunning.Operations"};

// The library that has reflection switches it on for every server of a program that links it.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return plugin->name().find("reflection") != std::string::npos;
    });
  }
};

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

StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const ServerOptions& options) {
  const int given =
      !options.certificate.empty() + !options.key.empty() + !options.client_ca.empty();
  if (given == 0 && IsLoopback(options.listen)) return grpc::InsecureServerCredentials();
  if (given == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", options.listen,
                     ": beyond loopback give --tls-cert, --tls-key and --tls-client-ca"));
  }
  if (given != 3) {
    return absl::InvalidArgumentError(
        "give --tls-cert, --tls-key and --tls-client-ca together, or none of them");
  }
  grpc::SslServerCredentialsOptions ssl(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = options.client_ca;
  ssl.pem_key_cert_pairs.push_back({options.key, options.certificate});
  return grpc::SslServerCredentials(ssl);
}

}  // namespace

struct ApiServer::Services {
  explicit Services(ApiContext& api) : quantization(api), operations(api) {}
  QuantizationApi quantization;
  OperationsApi operations;
};

bool IsLoopback(const std::string& listen) {
  const std::string host = listen.substr(0, listen.rfind(':'));
  return host == "localhost" || host == "[::1]" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos);
}

ApiServer::ApiServer(Coordinator& coordinator, Access access, const ServerOptions& options)
    : api_{coordinator, std::move(access), RateLimit(options.rate), options.largest_request,
           options.most_watches},
      drain_(options.drain) {}

StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(Coordinator& coordinator,
                                                      const ServerOptions& options) {
  CVXQ_ASSIGN_OR_RETURN(const auto credentials, Credentials(options));
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
