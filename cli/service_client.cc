#include "cli/service_client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "base/interrupt.h"
#include "service/api/grpc_log.h"
#include "service/api/grpc_status.h"
#include "service/errors.h"
#include "service/names.h"
#include "service/timestamps.h"
#include "storage/files.h"

namespace cvxq {
namespace {

constexpr char kDefaultServer[] = "127.0.0.1:7700";
constexpr std::chrono::seconds kDeadline{30};
constexpr absl::Duration kReconnect = absl::Minutes(1);

// Only failures to reach the server are tried again by themselves (AIP-194).
constexpr char kServiceConfig[] = R"({"methodConfig": [{
  "name": [{"service": "cvxq.v1.QuantizationService"}],
  "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s",
                  "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]})";

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const ClientFlags& flags) {
  if (flags.tls_ca.empty() && flags.tls_cert.empty() && flags.tls_key.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  if (flags.tls_ca.empty() || flags.tls_cert.empty() != flags.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "give --tls-ca, and --tls-cert and --tls-key together or neither");
  }
  grpc::SslCredentialsOptions ssl;
  CVXQ_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadFile(flags.tls_ca));
  if (!flags.tls_cert.empty()) {
    CVXQ_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadFile(flags.tls_cert));
    CVXQ_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadFile(flags.tls_key));
  }
  return grpc::SslCredentials(ssl);
}

// Cancels a call once the user interrupts: a blocked read has no other way out.
class InterruptWatcher {
 public:
  explicit InterruptWatcher(grpc::ClientContext& context)
      : thread_([this, &context] {
          while (!done_ && !Interrupted()) absl::SleepFor(absl::Milliseconds(50));
          if (!done_) context.TryCancel();
        }) {}
  ~InterruptWatcher() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

}  // namespace

void ClientFlags::Declare(CLI::App* command) {
  command->add_option("--server", server, "HOST:PORT (default: CVXQ_SERVER, or 127.0.0.1:7700)");
  command->add_option("--project", project, "Project of the jobs")->capture_default_str();
  command->add_option("--tls-ca", tls_ca, "Certificates that the server's is checked against");
  command->add_option("--tls-cert", tls_cert, "Certificate of this client");
  command->add_option("--tls-key", tls_key, "Its key");
  command->add_option("--token-file", token_file, "File with a bearer token (or CVXQ_TOKEN)");
}

StatusOr<ServiceClient> ServiceClient::Open(const ClientFlags& flags) {
  SilenceGrpc();
  ServiceClient client;
  client.server_ = flags.server.empty() ? FromEnvironment("CVXQ_SERVER") : flags.server;
  if (client.server_.empty()) client.server_ = kDefaultServer;
  client.parent_ = absl::StrCat("projects/", flags.project);
  client.token_ = FromEnvironment("CVXQ_TOKEN");
  if (!flags.token_file.empty()) {
    CVXQ_ASSIGN_OR_RETURN(client.token_, ReadFile(flags.token_file));
  }
  client.token_ = std::string(absl::StripAsciiWhitespace(client.token_));
  CVXQ_ASSIGN_OR_RETURN(const auto credentials, Credentials(flags));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  arguments.SetMaxReceiveMessageSize(64 << 20);  // a page of jobs with all their files
  arguments.SetServiceConfigJSON(kServiceConfig);
  client.stub_ = v1::QuantizationService::NewStub(
      grpc::CreateCustomChannel(client.server_, credentials, arguments));
  return client;
}

StatusOr<std::string> ServiceClient::JobName(const std::string& name_or_id) const {
  if (IsId(name_or_id)) return absl::StrCat(parent_, "/quantizeModelJobs/", name_or_id);
  const StatusOr<struct JobName> name = ParseJobName(name_or_id);
  if (name.ok()) return name_or_id;
  return absl::InvalidArgumentError(
      absl::StrCat(name_or_id, " is no name of a job; cvxq jobs lists them"));
}

void ServiceClient::Prepare(grpc::ClientContext& context) const {
  if (!token_.empty()) context.AddMetadata("authorization", "Bearer " + token_);
}

Status ServiceClient::Complete(const grpc::Status& status) const {
  const Status result = FromGrpcStatus(status);
  if (result.ok() || !ReasonOf(result).empty()) return result;
  if (absl::IsCancelled(result)) return result;
  return Status(result.code(),
                absl::StrCat("no answer from ", server_, ": ", std::string(result.message()),
                             "; is a coordinator there (--server, CVXQ_SERVER)?"));
}

StatusOr<std::string> ServiceClient::Create(
    const v1::CreateQuantizeModelJobRequest& request) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  Prepare(context);
  google::longrunning::Operation operation;
  CVXQ_RETURN_IF_ERROR(Complete(stub_->CreateQuantizeModelJob(&context, request, &operation)));
  v1::JobMetadata metadata;
  if (!operation.metadata().UnpackTo(&metadata)) {
    return absl::InternalError("the server's answer is not of this service");
  }
  return metadata.job();
}

StatusOr<Job> ServiceClient::Get(const std::string& name) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  Prepare(context);
  v1::GetQuantizeModelJobRequest request;
  request.set_name(name);
  Job job;
  CVXQ_RETURN_IF_ERROR(Complete(stub_->GetQuantizeModelJob(&context, request, &job)));
  return job;
}

StatusOr<std::vector<Job>> ServiceClient::List(const std::string& filter) const {
  std::vector<Job> jobs;
  v1::ListQuantizeModelJobsRequest request;
  request.set_parent(parent_);
  request.set_filter(filter);
  request.set_page_size(500);
  do {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    Prepare(context);
    v1::ListQuantizeModelJobsResponse response;
    CVXQ_RETURN_IF_ERROR(Complete(stub_->ListQuantizeModelJobs(&context, request, &response)));
    for (Job& job : *response.mutable_quantize_model_jobs()) jobs.push_back(std::move(job));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  std::stable_sort(jobs.begin(), jobs.end(), [](const Job& a, const Job& b) {
    return FromTimestamp(a.create_time()) < FromTimestamp(b.create_time());
  });
  return jobs;
}

StatusOr<Job> ServiceClient::Cancel(const std::string& name) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  Prepare(context);
  v1::CancelQuantizeModelJobRequest request;
  request.set_name(name);
  Job job;
  CVXQ_RETURN_IF_ERROR(Complete(stub_->CancelQuantizeModelJob(&context, request, &job)));
  return job;
}

Status ServiceClient::WatchOnce(const std::string& name, int64_t& revision, Job& job,
                                const std::function<void(const v1::JobEvent&)>& tell) const {
  grpc::ClientContext context;
  Prepare(context);
  const InterruptWatcher watcher(context);
  v1::WatchQuantizeModelJobRequest request;
  request.set_name(name);
  request.set_after_revision(revision);
  const auto reader = stub_->WatchQuantizeModelJob(&context, request);
  v1::JobEvent event;
  while (reader->Read(&event)) {
    if (event.has_snapshot()) job = event.snapshot();
    revision = event.revision();
    tell(event);
  }
  return Complete(reader->Finish());
}

StatusOr<Job> ServiceClient::Watch(const std::string& name,
                                   const std::function<void(const v1::JobEvent&)>& tell) const {
  int64_t revision = 0;
  Job job;
  absl::Time last_heard = absl::Now();
  for (;;) {
    const int64_t before = revision;
    const Status status = WatchOnce(name, revision, job, tell);
    if (status.ok()) return job;
    if (Interrupted()) {
      return absl::CancelledError(
          absl::StrCat("detached; the job goes on: cvxq watch ", name, ", cvxq cancel ", name));
    }
    if (ReasonOf(status) == reason::kRevisionCompacted) {
      revision = 0;  // begins with a snapshot of all that was missed
      continue;
    }
    if (revision != before) last_heard = absl::Now();
    if (!absl::IsUnavailable(status) || absl::Now() - last_heard > kReconnect) return status;
    absl::SleepFor(absl::Milliseconds(500));
  }
}

}  // namespace cvxq
