#include "service/api/call.h"

#include <google/protobuf/message.h>

#include "service/api/grpc_status.h"
#include "service/errors.h"
#include "service/log.h"

namespace cvxq {

Status Call::Admit(const google::protobuf::Message& request) {
  const auto& metadata = context_.client_metadata();
  const auto found = metadata.find("authorization");
  const std::string header =
      found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  // The certificate's names where there is one; else all callers of this machine are one.
  std::string peer = "anonymous";
  const auto identity = context_.auth_context()->GetPeerIdentity();
  if (!identity.empty()) peer = std::string(identity[0].data(), identity[0].size());
  CVXQ_ASSIGN_OR_RETURN(caller_, api_.access.Authenticate(header, peer));
  CVXQ_RETURN_IF_ERROR(api_.rate.Take(caller_.name, absl::Now()));
  if (request.ByteSizeLong() > api_.largest_request) {
    return ServiceError(absl::StatusCode::kInvalidArgument, reason::kRequestTooLarge,
                        absl::StrCat("the request has ", request.ByteSizeLong(), " bytes; at most ",
                                     api_.largest_request, " are taken"));
  }
  return absl::OkStatus();
}

grpc::Status Call::Finish(const Status& status) {
  const std::string code = status.ok() ? "OK" : absl::StatusCodeToString(status.code());
  api_.coordinator.metrics().Rpc(method_, code, absl::Now() - start_);
  if (absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsDataLoss(status)) {
    Log(LogLevel::kError, std::string(status.message()),
        {{"method", method_}, {"caller", caller_.name}});
  }
  return ToGrpcStatus(status);
}

OpenWatch::OpenWatch(ApiContext& api) : api_(api), count_(++api.watches) {
  api_.coordinator.metrics().WatchOpened();
}

OpenWatch::~OpenWatch() {
  --api_.watches;
  api_.coordinator.metrics().WatchClosed();
}

Status OpenWatch::Check() const {
  if (count_ <= api_.most_watches) return absl::OkStatus();
  return ServiceError(
      absl::StatusCode::kResourceExhausted, reason::kTooManyWatches,
      absl::StrCat(api_.most_watches, " watches are open, as many as this server takes"));
}

}  // namespace cvxq
