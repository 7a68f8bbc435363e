#include <signal.h>
#include <unistd.h>

#include "base/interrupt.h"
#include "base/size.h"
#include "base/thread_pool.h"
#include "cli/command.h"
#include "service/api/grpc_log.h"
#include "service/api/http_server.h"
#include "service/log.h"
#include "service/workers/worker.h"
#include "storage/files.h"

namespace cvxq {
namespace {

class WorkerCommand : public Command {
 public:
  explicit WorkerCommand(CLI::App& app) {
    CLI::App* command =
        Declare(app, "worker", "Work on stages of a coordinator's jobs",
                "cvxq worker --coordinator 127.0.0.1:7702 --threads 8 --memory 16GiB");
    command->add_option("--coordinator", options_.coordinator, "HOST:PORT that it has for workers")
        ->required();
    command->add_option("--listen", options_.listen, "HOST:PORT for other workers; port 0: any")
        ->capture_default_str();
    command->add_option("--advertise", options_.advertise,
                        "HOST:PORT at which they find this one (default: as it listens)");
    AddBackend(command, options_.resources.backend);
    AddThreads(command, options_.resources.threads);
    command->add_option("--memory", memory_, "For what may also lie on disk, e.g. 16GiB");
    command->add_option("--spill", options_.resources.spill_folder, "Folder for what does")
        ->capture_default_str();
    command->add_option("--metrics", metrics_, "ADDRESS:PORT for /metrics, /healthz, /readyz");
    command->add_option("--tls-cert", certificate_, "Certificate of this worker (PEM)");
    command->add_option("--tls-key", key_, "Its key");
    command->add_option("--tls-ca", authority_, "Who signs those of the others");
  }

  Status Run() override {
    signal(SIGPIPE, SIG_IGN);
    LogGrpcErrors();
    const auto read = [](const std::string& path, std::string& text) -> Status {
      if (path.empty()) return absl::OkStatus();
      CVXQ_ASSIGN_OR_RETURN(text, ReadFile(path));
      return absl::OkStatus();
    };
    CVXQ_RETURN_IF_ERROR(read(certificate_, options_.tls.certificate));
    CVXQ_RETURN_IF_ERROR(read(key_, options_.tls.key));
    CVXQ_RETURN_IF_ERROR(read(authority_, options_.tls.authority));
    if (!memory_.empty()) {
      CVXQ_ASSIGN_OR_RETURN(options_.resources.memory, ParseByteSize(memory_));
    }
    if (options_.resources.threads == 0) options_.resources.threads = AvailableProcessors();
    WorkerMetrics metrics(CVXQ_VERSION);
    options_.resources.metrics = &metrics;
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Worker> worker, Worker::Start(options_));
    std::unique_ptr<HttpServer> http;
    if (!metrics_.empty()) {
      CVXQ_ASSIGN_OR_RETURN(
          http, HttpServer::Start(metrics_,
                                  {.metrics = [&] { return metrics.Text(worker->wave_bytes()); },
                                   .ready = [&metrics] { return metrics.registered(); }}));
    }
    Announce(worker->address(), http == nullptr ? 0 : http->port());
    worker->Run();
    Log(LogLevel::kInfo, "worker stopped");
    // Never "done": whatever runs workers is to start another one in its place.
    return CheckInterrupted();
  }

 private:
  // Where it listens: port 0 in the options stands for any.
  void Announce(const std::string& address, int metrics_port) const {
    const std::string metrics =
        metrics_port == 0
            ? ""
            : absl::StrCat(metrics_.substr(0, metrics_.rfind(':')), ":", metrics_port);
    Log(LogLevel::kInfo, "listening", {{"address", address}, {"metrics", metrics}});
    if (!common.json) return;
    PrintJson({{"address", address}, {"metrics", metrics}});
    std::fflush(stdout);
  }

  WorkerOptions options_{.resources = {.threads = 0, .spill_folder = "/tmp"}};
  std::string memory_, metrics_, certificate_, key_, authority_;
};

}  // namespace

std::unique_ptr<Command> MakeWorkerCommand(CLI::App& app) {
  return std::make_unique<WorkerCommand>(app);
}

}  // namespace cvxq
