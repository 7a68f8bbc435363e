// A worker: a process that lends itself to a coordinator and works on the stages that it is given.
// It keeps nothing beyond its session: whoever loses the other begins anew.
#ifndef CVXQ_SERVICE_WORKERS_WORKER_H_
#define CVXQ_SERVICE_WORKERS_WORKER_H_

#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <vector>

#include "service/api/credentials.h"
#include "service/workers/worker_metrics.h"
#include "service/workers/worker_stage.h"

namespace cvxq {

struct WorkerOptions {
  std::string coordinator;             // HOST:PORT of its WorkerService
  std::string listen = "127.0.0.1:0";  // for other workers; port 0: any that is free
  std::string advertise;               // HOST:PORT that these use; empty: as it listens
  TlsTexts tls;                        // for both
  WorkerResources resources;
};

class Worker {
 public:
  // Listens for other workers. kInvalidArgument for options that do not fit, kUnavailable where the
  // port is taken or the backend that is asked for cannot be had.
  static StatusOr<std::unique_ptr<Worker>> Start(WorkerOptions options);
  ~Worker();

  // Works until the process is told to end (Interrupted()); a coordinator that is not there is
  // waited for.
  void Run();
  const std::string& address() const { return address_; }
  const WaveBytes& wave_bytes() const { return waves_.bytes; }

 private:
  class Session;
  explicit Worker(WorkerOptions options);

  const WorkerOptions options_;
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::string address_;
  Numerics numerics_;
  Waves waves_;
  TransportService transport_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_WORKER_H_
