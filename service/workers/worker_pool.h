// The workers that have registered with this process: their sessions, and which job hears what they
// report.
#ifndef CVXQ_SERVICE_WORKERS_WORKER_POOL_H_
#define CVXQ_SERVICE_WORKERS_WORKER_POOL_H_

#include <grpcpp/server.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cvxq/v1/worker_service.grpc.pb.h"
#include "service/api/credentials.h"
#include "service/workers/lease.h"

namespace cvxq {

// One session of a worker. Thread-safe.
class WorkerLink {
 public:
  // To be written in order; dropped once the worker is lost.
  void Send(const v1::Command& command);
  // For good: a worker that comes back has another link.
  bool lost() const { return lost_; }
  const v1::Hello& hello() const { return hello_; }

 private:
  friend class WorkerPool;
  v1::Hello hello_;
  grpc::ServerContext* context_ = nullptr;  // while the pool has it
  Lease heard_;
  std::atomic<bool> lost_ = false;
  std::mutex mutex_;  // of the two below
  std::condition_variable wake_;
  std::deque<v1::CoordinatorMessage> outgoing_;
};

// Who gives work to workers. Called from threads of the pool; must be quick.
class WorkerListener {
 public:
  virtual ~WorkerListener() = default;
  virtual void OnReport(const WorkerLink& worker, v1::Report report) = 0;
  // A worker came or was lost.
  virtual void OnChange() = 0;
};

struct WorkerPoolOptions {
  std::string listen = "127.0.0.1:0";
  TlsTexts tls;
  // How long jobs wait after the start for workers, which have to notice that the coordinator
  // before this one is gone: they ask for the next one every two seconds.
  absl::Duration settling = absl::Seconds(3);
};

class WorkerPool {
 public:
  // Listens for workers. Errors as ServerCredentials; kUnavailable where the port is taken.
  static StatusOr<std::unique_ptr<WorkerPool>> Start(const WorkerPoolOptions& options);
  // Nobody listens any more.
  ~WorkerPool();

  int port() const { return port_; }
  // For how long yet workers that lived before this process may be about to register.
  absl::Duration settling() const;
  // Those that live, in the order in which they came.
  std::vector<std::shared_ptr<WorkerLink>> workers() const;
  // `listener` hears of the job's stages until Detach has returned.
  void Attach(const std::string& job, WorkerListener& listener);
  void Detach(const std::string& job);

  // Counted by jobs for the metrics: stages whose worker went away, or could not do them.
  std::atomic<int64_t> stages_lost = 0, stages_refused = 0;

 private:
  using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;
  class Service : public v1::WorkerService::Service {
   public:
    explicit Service(WorkerPool& pool) : pool_(pool) {}
    grpc::Status Session(grpc::ServerContext* context, Stream* stream) override {
      return pool_.Serve(*context, *stream);
    }

   private:
    WorkerPool& pool_;
  };

  WorkerPool() : service_(*this) {}
  grpc::Status Serve(grpc::ServerContext& context, Stream& stream);
  grpc::Status Read(const std::shared_ptr<WorkerLink>& link, Stream& stream);
  static void Write(WorkerLink& link, Stream& stream);
  void Watch();
  void TellChange();

  Service service_;
  const absl::Time started_ = absl::Now();
  absl::Duration settling_;
  int port_ = 0;
  mutable std::mutex mutex_;  // of the three below
  std::condition_variable stop_;
  std::vector<std::shared_ptr<WorkerLink>> sessions_;  // without a Hello too
  bool stopping_ = false;
  std::mutex listeners_mutex_;  // taken before that of a listener
  std::map<std::string, WorkerListener*> listeners_;
  std::thread watchdog_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_WORKER_POOL_H_
