#include "service/api/quantization_api.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "service/api/operations_api.h"
#include "service/errors.h"
#include "service/job_filter.h"
#include "service/names.h"
#include "service/uuid.h"

namespace cvxq {
namespace {

constexpr int32_t kDefaultPage = 50, kLargestPage = 1000;
constexpr size_t kLargestPageBytes = size_t{3} << 20;  // clients take 4 MiB unless told otherwise

// Equal for equal messages, in one build; maps have no place in what clients ask for.
std::string Digest(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), hash);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(hash), sizeof(hash)));
}

// Checks the form of a request and keeps of it what a client decides.
StatusOr<JobRequest> ToJobRequest(const v1::CreateQuantizeModelJobRequest& request,
                                  const JobName& parent) {
  if (!request.request_id().empty() && !IsUuid4(request.request_id())) {
    return BadFieldError("request_id", "must be a UUID of version 4");
  }
  if (!request.quantize_model_job_id().empty() && !IsId(request.quantize_model_job_id())) {
    return BadFieldError("quantize_model_job_id", "must match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$");
  }
  if (!request.has_quantize_model_job()) return BadFieldError("quantize_model_job", "is required");
  v1::CreateQuantizeModelJobRequest asked;
  asked.set_parent(request.parent());
  asked.set_quantize_model_job_id(request.quantize_model_job_id());
  Job& job = *asked.mutable_quantize_model_job();
  const Job& given = request.quantize_model_job();
  *job.mutable_source() = given.source();
  *job.mutable_output() = given.output();
  *job.mutable_spec() = given.spec();
  *job.mutable_resources() = given.resources();
  job.DiscardUnknownFields();

  JobRequest result;
  result.digest = Digest(asked);
  if (!request.request_id().empty()) {
    result.request_id = absl::StrCat(parent.parent(), "/", request.request_id());
  }
  JobName name = parent;
  const std::string uid = NewUuid();
  name.id = request.quantize_model_job_id();
  if (name.id.empty()) name.id = absl::StrCat("job-", uid.substr(24));
  result.job = job;
  result.job.set_name(name.job());
  result.job.set_uid(uid);
  return result;
}

Status Watch(ApiContext& api, Call& call, const v1::WatchQuantizeModelJobRequest& request,
             grpc::ServerWriter<v1::JobEvent>& writer) {
  CVXQ_RETURN_IF_ERROR(call.Admit(request));
  CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(request.name()));
  CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
  if (request.after_revision() < 0) {
    return BadFieldError("after_revision", "must not be negative");
  }
  const OpenWatch open(api);
  CVXQ_RETURN_IF_ERROR(open.Check());
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<JobWatch> watch,
                        api.coordinator.jobs().Watch(name.job(), request.after_revision()));
  while (!call.cancelled()) {
    const StatusOr<std::optional<v1::JobEvent>> event = watch->Next(kWaitSlice);
    if (!event.ok()) return watch->ended() ? absl::OkStatus() : event.status();
    if (event->has_value() && !writer.Write(**event)) break;
  }
  return absl::CancelledError("the client has gone");
}

}  // namespace

StatusOr<JobPage> ListPage(ApiContext& api, const std::string& parent, int32_t page_size,
                           const std::string& page_token, const std::string& filter,
                           std::string& next_page_token) {
  if (page_size < 0) return BadFieldError("page_size", "must not be negative");
  CVXQ_ASSIGN_OR_RETURN(const auto matches, ParseFilter(filter));
  const std::string query = absl::StrCat(parent, "\n", filter);
  CVXQ_ASSIGN_OR_RETURN(const std::string after, ParsePageToken(query, page_token));
  const int32_t limit = std::min(page_size == 0 ? kDefaultPage : page_size, kLargestPage);
  JobPage page = api.coordinator.jobs().List(absl::StrCat(parent, "/quantizeModelJobs/"), after,
                                             static_cast<size_t>(limit), matches);
  size_t bytes = 0;
  for (size_t i = 0; i < page.jobs.size(); ++i) {
    bytes += page.jobs[i]->ByteSizeLong();
    if (i == 0 || bytes <= kLargestPageBytes) continue;
    page.jobs.resize(i);
    CVXQ_ASSIGN_OR_RETURN(const JobName last, ParseJobName(page.jobs.back()->name()));
    page.next_after = last.id;
  }
  if (!page.next_after.empty()) next_page_token = MakePageToken(query, page.next_after);
  return page;
}

grpc::Status QuantizationApi::CreateQuantizeModelJob(
    grpc::ServerContext* context, const v1::CreateQuantizeModelJobRequest* request,
    google::longrunning::Operation* response) {
  Call call(api_, *context, "CreateQuantizeModelJob");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName parent, ParseParent("parent", request->parent()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(parent.project));
    CVXQ_ASSIGN_OR_RETURN(const JobRequest job_request, ToJobRequest(*request, parent));
    if (request->validate_only()) {
      CVXQ_ASSIGN_OR_RETURN(const Job job, api_.coordinator.Validate(job_request));
      *response = ToOperation(job);
      return absl::OkStatus();
    }
    CVXQ_ASSIGN_OR_RETURN(const auto job, api_.coordinator.Create(job_request));
    *response = ToOperation(*job);
    return absl::OkStatus();
  }());
}

grpc::Status QuantizationApi::GetQuantizeModelJob(grpc::ServerContext* context,
                                                  const v1::GetQuantizeModelJobRequest* request,
                                                  Job* response) {
  Call call(api_, *context, "GetQuantizeModelJob");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    CVXQ_ASSIGN_OR_RETURN(const auto job, api_.coordinator.jobs().Get(name.job()));
    *response = *job;
    return absl::OkStatus();
  }());
}

grpc::Status QuantizationApi::ListQuantizeModelJobs(grpc::ServerContext* context,
                                                    const v1::ListQuantizeModelJobsRequest* request,
                                                    v1::ListQuantizeModelJobsResponse* response) {
  Call call(api_, *context, "ListQuantizeModelJobs");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName parent, ParseParent("parent", request->parent()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(parent.project));
    CVXQ_ASSIGN_OR_RETURN(const JobPage page, ListPage(api_, parent.parent(), request->page_size(),
                                                       request->page_token(), request->filter(),
                                                       *response->mutable_next_page_token()));
    for (const auto& job : page.jobs) *response->add_quantize_model_jobs() = *job;
    return absl::OkStatus();
  }());
}

grpc::Status QuantizationApi::CancelQuantizeModelJob(
    grpc::ServerContext* context, const v1::CancelQuantizeModelJobRequest* request, Job* response) {
  Call call(api_, *context, "CancelQuantizeModelJob");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    CVXQ_ASSIGN_OR_RETURN(*response, api_.coordinator.Cancel(name.job()));
    return absl::OkStatus();
  }());
}

grpc::Status QuantizationApi::DeleteQuantizeModelJob(
    grpc::ServerContext* context, const v1::DeleteQuantizeModelJobRequest* request,
    google::protobuf::Empty*) {
  Call call(api_, *context, "DeleteQuantizeModelJob");
  return call.Finish([&]() -> Status {
    CVXQ_RETURN_IF_ERROR(call.Admit(*request));
    CVXQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(request->name()));
    CVXQ_RETURN_IF_ERROR(call.CheckProject(name.project));
    return api_.coordinator.Delete(name.job(), request->etag());
  }());
}

grpc::Status QuantizationApi::WatchQuantizeModelJob(grpc::ServerContext* context,
                                                    const v1::WatchQuantizeModelJobRequest* request,
                                                    grpc::ServerWriter<v1::JobEvent>* writer) {
  Call call(api_, *context, "WatchQuantizeModelJob");
  return call.Finish(Watch(api_, call, *request, *writer));
}

}  // namespace cvxq
