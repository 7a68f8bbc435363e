// google.longrunning.Operations over a Coordinator: each job is one operation,
// projects/{project}/operations/{id of the job}.
#ifndef CVXQ_SERVICE_API_OPERATIONS_API_H_
#define CVXQ_SERVICE_API_OPERATIONS_API_H_

#include "google/longrunning/operations.grpc.pb.h"
#include "service/api/call.h"

namespace cvxq {

// The operation that stands for a job: done when the job has ended, with the job or its error.
google::longrunning::Operation ToOperation(const Job& job);

class OperationsApi final : public google::longrunning::Operations::Service {
 public:
  explicit OperationsApi(ApiContext& api) : api_(api) {}

  // `name`: projects/{project}; the filter as for jobs.
  grpc::Status ListOperations(grpc::ServerContext* context,
                              const google::longrunning::ListOperationsRequest* request,
                              google::longrunning::ListOperationsResponse* response) override;
  grpc::Status GetOperation(grpc::ServerContext* context,
                            const google::longrunning::GetOperationRequest* request,
                            google::longrunning::Operation* response) override;
  // Deletes the job.
  grpc::Status DeleteOperation(grpc::ServerContext* context,
                               const google::longrunning::DeleteOperationRequest* request,
                               google::protobuf::Empty* response) override;
  grpc::Status CancelOperation(grpc::ServerContext* context,
                               const google::longrunning::CancelOperationRequest* request,
                               google::protobuf::Empty* response) override;
  // Returns when the job has ended, or with the operation as it is after the timeout (at most until
  // the call's deadline).
  grpc::Status WaitOperation(grpc::ServerContext* context,
                             const google::longrunning::WaitOperationRequest* request,
                             google::longrunning::Operation* response) override;

 private:
  ApiContext& api_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_OPERATIONS_API_H_
