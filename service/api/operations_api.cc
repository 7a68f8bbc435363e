#include "service/api/operations_api.h"

#include <algorithm>

#include "service/api/quantization_api.h"
#include "service/errors.h"
#include "service/names.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

// Waits until the job has ended, `until` has come, or nobody waits any more.
StatusOr<Job> Wait(ApiContext& api, const Call& call, const std::string& name, absl::Time until) {
  CVXQ_ASSIGN_OR_RETURN(auto job, api.coordinator.jobs().Get(name));
  if (IsTerminal(job->state())) return *job;
  const OpenWatch open(api);
  CVXQ_RETURN_IF_ERROR(open.Check());
  CVXQ_ASSIGN_OR_RETURN(const auto watch, api.coordinator.jobs().Watch(name, job->revision()));
  while (!call.cancelled()) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    const auto event = watch->Next(std::min(left, kWaitSlice));
    if (watch->ended()) break;
    CVXQ_RETURN_IF_ERROR(event.status());
  }
  CVXQ_ASSIGN_OR_RETURN(job, api.coordinator.jobs().Get(name));
  return *job;
}

}  // namespace

google::longrunning::Operation ToOperation(const Job& job) {
  google::longrunning::Operation operation;
  if (const StatusOr<JobName> name = ParseJobName(job.name()); name.ok()) {
    operation.set_name(name->operation());
  }
  v1::JobMetadata metadata;
  metadata.set_job(job.name());
  metadata.set_state(job.state());
  *metadata.mutable_progress() = job.progress();
  *metadata.mutable_create_time() = job.create_time();
  *metadata.mutable_update_time() = job.update_time();
  operation.mutable_metadata()->PackFrom(metadata);
  operation.set_done(IsTerminal(job.state()));
  if (job.state() == Job::SUCCEEDED) {
    operation.mutable_response()->PackFrom(job);
  } else if (operation.done()) {
    *operation.mutable_error() = job.error();
  }
  return operation;
}

grpc::Status OperationsApi::ListOperations(
    grpc::ServerContext* context, const google::longrunning::ListOperationsRequest* request,
    google::longrunning::ListOperationsResponse* response) {
  Call call(api_, *context, "ListOperations");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName parent, ParseParent("name", request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(parent.project));
    CVXQ_ASSIGN_OR_RETURN(const JobPage page, ListPage(api_, parent.parent(), request->page_size(),
                                                       request->page_token(), request->filter(),
                                                       *response->mutable_next_page_token()));
    for (const auto& job : page.jobs) *response->add_operations() = ToOperation(*job);
    return absl::OkStatus();
  }());
}

grpc::Status OperationsApi::GetOperation(grpc::ServerContext* context,
                                         const google::longrunning::GetOperationRequest* request,
                                         google::longrunning::Operation* response) {
  Call call(api_, *context, "GetOperation");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseOperationName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    CVXQ_ASSIGN_OR_RETURN(const auto job, api_.coordinator.jobs().Get(name.job()));
    *response = ToOperation(*job);
    return absl::OkStatus();
  }());
}

grpc::Status OperationsApi::DeleteOperation(
    grpc::ServerContext* context, const google::longrunning::DeleteOperationRequest* request,
    google::protobuf::Empty*) {
  Call call(api_, *context, "DeleteOperation");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseOperationName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    return api_.coordinator.Delete(name.job(), "");
  }());
}

grpc::Status OperationsApi::CancelOperation(
    grpc::ServerContext* context, const google::longrunning::CancelOperationRequest* request,
    google::protobuf::Empty*) {
  Call call(api_, *context, "CancelOperation");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseOperationName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    return api_.coordinator.Cancel(name.job()).status();
  }());
}

grpc::Status OperationsApi::WaitOperation(grpc::ServerContext* context,
                                          const google::longrunning::WaitOperationRequest* request,
                                          google::longrunning::Operation* response) {
  Call call(api_, *context, "WaitOperation");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseOperationName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    absl::Time until = call.deadline();
    if (request->has_timeout()) {
      until = std::min(until, absl::Now() + FromDuration(request->timeout()));
    }
    CVXQ_ASSIGN_OR_RETURN(const Job job, Wait(api_, call, name.job(), until));
    *response = ToOperation(job);
    return absl::OkStatus();
  }());
}

}  // namespace cvxq
