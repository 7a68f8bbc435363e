// The gRPC server of a coordinator: its services, health, reflection, certificates, limits.
#ifndef CVXQ_SERVICE_API_SERVER_H_
#define CVXQ_SERVICE_API_SERVER_H_

#include <grpcpp/server.h>

#include <memory>
#include <string>

#include "service/api/call.h"
#include "service/coordinator.h"

namespace cvxq {

struct ServerOptions {
  std::string listen = "127.0.0.1:7700";  // HOST:PORT; port 0: any that is free
  // PEM texts. All three: TLS, and clients need a certificate of `client_ca`. None: plain, on
  // loopback only.
  std::string certificate, key, client_ca;
  std::string tokens;       // a token file (access.h); empty: none needed
  bool reflection = false;  // for tools that explore; off in production
  size_t largest_request = size_t{256} << 10;
  double rate = 1000;  // requests a second of one caller; 0: any
  int most_watches = 1000;
  absl::Duration drain = absl::Seconds(3);  // for calls under way at shutdown
};

class ApiServer {
 public:
  // Listens when it returns. kInvalidArgument for options that do not fit (beyond loopback without
  // certificates, too), kUnavailable where the port is taken.
  static StatusOr<std::unique_ptr<ApiServer>> Start(Coordinator& coordinator,
                                                    const ServerOptions& options);
  ~ApiServer();

  int port() const { return port_; }
  // What the health service says of all services.
  void SetServing(bool serving);
  // NOT_SERVING, ends watches and waiting calls with UNAVAILABLE SHUTTING_DOWN, lets others finish
  // for a while, and returns when all calls have. For good.
  void Shutdown();

 private:
  ApiServer(Coordinator& coordinator, Access access, const ServerOptions& options);

  struct Services;
  ApiContext api_;
  const absl::Duration drain_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_SERVER_H_
