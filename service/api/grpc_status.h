// Errors between absl::Status and gRPC, with their details (service/errors.h).
#ifndef CVXQ_SERVICE_API_GRPC_STATUS_H_
#define CVXQ_SERVICE_API_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "base/status.h"

namespace cvxq {

// Always with one ErrorInfo. Details that would not fit into a response's headers are left out.
grpc::Status ToGrpcStatus(const Status& status);
Status FromGrpcStatus(const grpc::Status& status);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_GRPC_STATUS_H_
