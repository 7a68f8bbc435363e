// The client side of the service for commands: flags, connection, errors, watching.
#ifndef CVXQ_CLI_SERVICE_CLIENT_H_
#define CVXQ_CLI_SERVICE_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cvxq/v1/quantization_service.grpc.pb.h"
#include "service/job.h"

namespace cvxq {

// How a command reaches the service.
struct ClientFlags {
  std::string server, project = "default";
  std::string tls_ca, tls_cert, tls_key;  // files; none: plain
  std::string token_file;

  // Adds --server, --project, --tls-ca, --tls-cert, --tls-key and --token-file.
  void Declare(CLI::App* command);
};

class ServiceClient {
 public:
  // Connects when it is first used. The token is of the flags' file or of CVXQ_TOKEN. Errors are
  // those of reading files.
  static StatusOr<ServiceClient> Open(const ClientFlags& flags);

  // A job's full name from that or its last part. kInvalidArgument.
  StatusOr<std::string> JobName(const std::string& name_or_id) const;

  // Sent again with its request id where the connection fails.
  StatusOr<std::string> Create(const v1::CreateQuantizeModelJobRequest& request) const;
  StatusOr<Job> Get(const std::string& name) const;
  StatusOr<std::vector<Job>> List(const std::string& filter) const;  // all pages, oldest first
  StatusOr<Job> Cancel(const std::string& name) const;
  // Tells each event until the job has ended, and gives the job. Goes on where a connection broke,
  // for a minute. kCancelled when the user interrupts: the job goes on.
  StatusOr<Job> Watch(const std::string& name,
                      const std::function<void(const v1::JobEvent&)>& tell) const;

  const std::string& parent() const { return parent_; }

 private:
  ServiceClient() = default;
  Status Complete(const grpc::Status& status) const;
  void Prepare(grpc::ClientContext& context) const;
  Status WatchOnce(const std::string& name, int64_t& revision, Job& job,
                   const std::function<void(const v1::JobEvent&)>& tell) const;

  std::string server_, parent_, token_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
};

}  // namespace cvxq

#endif  // CVXQ_CLI_SERVICE_CLIENT_H_
