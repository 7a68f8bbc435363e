// cvxq.v1.QuantizationService over a Coordinator. Synchronous: a call has a thread of its own, so
// it may wait for the store without holding up others, and a stream ends by its function returning.
#ifndef CVXQ_SERVICE_API_QUANTIZATION_API_H_
#define CVXQ_SERVICE_API_QUANTIZATION_API_H_

#include "cvxq/v1/quantization_service.grpc.pb.h"
#include "service/api/call.h"

namespace cvxq {

class QuantizationApi final : public v1::QuantizationService::Service {
 public:
  explicit QuantizationApi(ApiContext& api) : api_(api) {}

  grpc::Status CreateQuantizeModelJob(grpc::ServerContext* context,
                                      const v1::CreateQuantizeModelJobRequest* request,
                                      google::longrunning::Operation* response) override;
  grpc::Status GetQuantizeModelJob(grpc::ServerContext* context,
                                   const v1::GetQuantizeModelJobRequest* request,
                                   Job* response) override;
  grpc::Status ListQuantizeModelJobs(grpc::ServerContext* context,
                                     const v1::ListQuantizeModelJobsRequest* request,
                                     v1::ListQuantizeModelJobsResponse* response) override;
  grpc::Status CancelQuantizeModelJob(grpc::ServerContext* context,
                                      const v1::CancelQuantizeModelJobRequest* request,
                                      Job* response) override;
  grpc::Status DeleteQuantizeModelJob(grpc::ServerContext* context,
                                      const v1::DeleteQuantizeModelJobRequest* request,
                                      google::protobuf::Empty* response) override;
  grpc::Status WatchQuantizeModelJob(grpc::ServerContext* context,
                                     const v1::WatchQuantizeModelJobRequest* request,
                                     grpc::ServerWriter<v1::JobEvent>* writer) override;

 private:
  ApiContext& api_;
};

// The jobs that a list asks for, of either service. `page_size` 0 stands for 50; at most 1000.
StatusOr<JobPage> ListPage(ApiContext& api, const std::string& parent, int32_t page_size,
                           const std::string& page_token, const std::string& filter,
                           std::string& next_page_token);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_QUANTIZATION_API_H_
