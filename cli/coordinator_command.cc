#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>

#include "absl/time/clock.h"
#include "base/interrupt.h"
#include "cli/command.h"
#include "kernels/backend.h"
#include "service/api/grpc_log.h"
#include "service/api/http_server.h"
#include "service/api/server.h"
#include "service/errors.h"
#include "service/local_executor.h"
#include "service/log.h"
#include "service/metered_store.h"
#include "service/workers/remote_stages.h"
#include "storage/files.h"
#include "storage/object_store.h"

namespace cvxq {
namespace {

class CoordinatorCommand : public Command {
 public:
  explicit CoordinatorCommand(CLI::App& app) {
    CLI::App* command =
        Declare(app, "coordinator", "Take jobs over gRPC and run them",
                "cvxq coordinator --store sqlite:/var/lib/cvxq/jobs.db --allow /models");
    command->add_option("--listen", server_.listen, "HOST:PORT for clients")->capture_default_str();
    command->add_option("--listen-workers", workers_.listen, "HOST:PORT for workers");
    command
        ->add_option("--settle", settle_,
                     "Seconds after the start that jobs wait for workers to register")
        ->capture_default_str()
        ->check(NotNegative());
    command->add_option("--store", store_, "sqlite:PATH or redis://HOST[:PORT][/DB]")->required();
    command
        ->add_option("--allow", allow_,
                     "Folders, and s3://BUCKET/PREFIX, that jobs may read and write; repeatable")
        ->required();
    command->add_option("--metrics", metrics_, "ADDRESS:PORT for /metrics, /healthz, /readyz");
    command->add_option("--tls-cert", certificate_, "Certificate of this server (PEM)");
    command->add_option("--tls-key", key_, "Its key");
    command->add_option("--tls-client-ca", client_ca_, "Who signs clients' certificates");
    command->add_option("--tls-worker-ca", worker_ca_,
                        "Who signs workers' (default: who signs clients')");
    command->add_option("--tokens", tokens_, "File of bearer tokens: NAME TOKEN PROJECTS");
    command
        ->add_option("--jobs", executor_.parallel, "Jobs at a time; 0: take jobs and let them wait")
        ->capture_default_str()
        ->check(CLI::Range(0, 64));
    command
        ->add_option(
            "--save-every", executor_.save_seconds,
            "Seconds between writes of what a job has done to OUTPUT.resume, from where it "
            "goes on after a crash")
        ->capture_default_str()
        ->check(NotNegative());
    command->add_option("--rate", server_.rate, "Requests a second of one caller; 0: any")
        ->capture_default_str()
        ->check(NotNegative());
    command->add_flag("--reflection", server_.reflection, "Tell tools the protocol");
  }

  Status Run() override {
    signal(SIGPIPE, SIG_IGN);
    LogGrpcErrors();
    CVXQ_RETURN_IF_ERROR(ReadFiles());
    CVXQ_ASSIGN_OR_RETURN(const StoragePolicy policy, StoragePolicy::Make(allow_));
    for (const std::string& bucket : policy.buckets()) WarnIfNotPublishable(bucket);
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<StateStore> opened, OpenStateStore(store_));
    Metrics metrics(CVXQ_VERSION);
    MeteredStore store(*opened, metrics);
    std::unique_ptr<WorkerPool> workers;
    if (!workers_.listen.empty()) {
      if (workers_.tls.authority.empty()) workers_.tls.authority = server_.client_ca;
      workers_.tls.certificate = server_.certificate;
      workers_.tls.key = server_.key;
      workers_.settling = absl::Seconds(settle_);
      CVXQ_ASSIGN_OR_RETURN(workers, WorkerPool::Start(workers_));
      executor_.make_stages = UseWorkersIfAny(*workers);
      executor_.stage_numerics = [&pool = *workers] { return SettledNumericsOfWorkers(pool); };
    }
    LocalExecutor executor(policy, executor_);
    CoordinatorOptions options;
    options.jobs.owner = Owner();
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Coordinator> coordinator,
                          Coordinator::Start(store, executor, policy, metrics, options));
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ApiServer> server,
                          ApiServer::Start(*coordinator, server_));
    std::atomic<bool> ready = true;
    std::unique_ptr<HttpServer> http;
    if (!metrics_.empty()) {
      CVXQ_ASSIGN_OR_RETURN(
          http,
          HttpServer::Start(
              metrics_, {.metrics = [&] { return metrics.Text(View(*coordinator, workers.get())); },
                         .ready = [&ready] { return ready.load(); }}));
    }
    Announce(server->port(), http == nullptr ? 0 : http->port(),
             workers == nullptr ? 0 : workers->port());
    const Status status = Serve(*coordinator, *server, ready);
    ready = false;
    server->Shutdown();
    coordinator->Shutdown();
    Log(LogLevel::kInfo, "coordinator stopped");
    return status;
  }

 private:
  // Secrets come as files alone, so that no list of processes shows them.
  Status ReadFiles() {
    const auto read = [](const std::string& path, std::string& text) -> Status {
      if (path.empty()) return absl::OkStatus();
      CVXQ_ASSIGN_OR_RETURN(text, ReadFile(path));
      if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
      return absl::OkStatus();
    };
    CVXQ_RETURN_IF_ERROR(read(certificate_, server_.certificate));
    CVXQ_RETURN_IF_ERROR(read(key_, server_.key));
    CVXQ_RETURN_IF_ERROR(read(client_ca_, server_.client_ca));
    CVXQ_RETURN_IF_ERROR(read(worker_ca_, workers_.tls.authority));
    CVXQ_RETURN_IF_ERROR(read(tokens_, server_.tokens));
    struct stat info;
    if (!tokens_.empty() && stat(tokens_.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0) {
      Log(LogLevel::kWarning, "everybody on this machine can read the token file",
          {{"file", tokens_}});
    }
    return absl::OkStatus();
  }

  // Such a bucket may still hold models to be read.
  static void WarnIfNotPublishable(const std::string& bucket) {
    auto store = OpenObjectStore(bucket);
    const Status status =
        store.ok() ? (*store)->CheckConditionalWrites("cvxq-check") : store.status();
    if (status.ok()) return;
    Log(LogLevel::kWarning, "no outputs can be made in this bucket",
        {{"bucket", bucket}, {"reason", std::string(status.message())}});
  }

  static MetricsView View(const Coordinator& coordinator, const WorkerPool* workers) {
    MetricsView view = coordinator.View();
    if (workers == nullptr) return view;
    const std::optional<Numerics> numerics = NumericsOfWorkers(*workers);
    for (const auto& worker : workers->workers()) {
      const bool usable = worker->hello().numerics_class() == numerics->numerics_class;
      ++(usable ? view.usable_workers : view.other_workers);
    }
    view.stages_lost = workers->stages_lost;
    view.stages_refused = workers->stages_refused;
    return view;
  }

  static std::string Owner() {
    char host[256] = {};
    gethostname(host, sizeof(host) - 1);
    return absl::StrCat(host, " ", getpid());
  }

  // Where it listens: port 0 in the options stands for any.
  void Announce(int port, int metrics_port, int workers_port) const {
    const auto with_port = [](const std::string& listen, int number) {
      return number == 0 ? "" : absl::StrCat(listen.substr(0, listen.rfind(':')), ":", number);
    };
    const std::string address = with_port(server_.listen, port);
    const std::string metrics = with_port(metrics_, metrics_port);
    const std::string workers = with_port(workers_.listen, workers_port);
    Log(LogLevel::kInfo, "listening",
        {{"address", address}, {"metrics", metrics}, {"workers", workers}});
    if (!common.json) return;
    PrintJson({{"address", address}, {"metrics", metrics}, {"workers", workers}});
    std::fflush(stdout);
  }

  // Until the user or the system ends it, or another coordinator has taken over.
  static Status Serve(Coordinator& coordinator, ApiServer& server, std::atomic<bool>& ready) {
    while (!Interrupted()) {
      const Status leads = coordinator.jobs().KeepEpoch();
      if (leads.ok() != ready) {
        ready = leads.ok();
        server.SetServing(ready);
        coordinator.metrics().SetLeader(ready);
        Log(ready ? LogLevel::kInfo : LogLevel::kError,
            ready ? "serving again" : std::string(leads.message()));
      }
      if (ReasonOf(leads) == reason::kNotLeader) return leads;
      for (int i = 0; i < 5 && !Interrupted(); ++i) absl::SleepFor(absl::Milliseconds(100));
    }
    return absl::OkStatus();
  }

  ServerOptions server_;
  LocalExecutorOptions executor_;
  WorkerPoolOptions workers_{.listen = ""};
  std::string store_, metrics_, certificate_, key_, client_ca_, worker_ca_, tokens_;
  std::vector<std::string> allow_;
  double settle_ = 3;
};

}  // namespace

std::unique_ptr<Command> MakeCoordinatorCommand(CLI::App& app) {
  return std::make_unique<CoordinatorCommand>(app);
}

}  // namespace cvxq
