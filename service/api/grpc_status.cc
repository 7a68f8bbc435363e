#include "service/api/grpc_status.h"

#include "service/errors.h"

namespace cvxq {
namespace {

constexpr size_t kMostDetailBytes = 4096;  // in base64 two thirds of the usual 8 KiB of headers

}  // namespace

grpc::Status ToGrpcStatus(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status rich = ToRpcStatus(status);
  if (rich.ByteSizeLong() > kMostDetailBytes) {
    // Without its details the error still says what and why.
    const std::string reason = ReasonOf(FromRpcStatus(rich));
    rich = ToRpcStatus(ServiceError(status.code(), reason.c_str(), rich.message()));
  }
  return grpc::Status(static_cast<grpc::StatusCode>(rich.code()), rich.message(),
                      rich.SerializeAsString());
}

Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status rich;
  if (!status.error_details().empty() && rich.ParseFromString(status.error_details()) &&
      rich.code() == static_cast<int>(status.error_code())) {
    return FromRpcStatus(rich);
  }
  return Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace cvxq
