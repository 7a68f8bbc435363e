// What the gRPC library has to say.
#ifndef CVXQ_SERVICE_API_GRPC_LOG_H_
#define CVXQ_SERVICE_API_GRPC_LOG_H_

namespace cvxq {

// Sends it to the service's log (service/log.h), errors only, in place of lines of its own form on
// standard error. For the rest of the process.
void LogGrpcErrors();
// Drops it: a client learns of errors by the status of its calls.
void SilenceGrpc();

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_GRPC_LOG_H_
