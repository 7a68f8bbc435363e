#include "tests/service/watch_storm.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "service/api/grpc_status.h"
#include "service/api/server.h"
#include "service/errors.h"
#include "service/timestamps.h"
#include "tests/service/submission_storm.h"

namespace cvxq {
namespace {

// Takes jobs and does nothing: the storm reports in its place.
class IdleExecutor : public JobExecutor {
 public:
  Status Check(const Job&) override { return absl::OkStatus(); }
  void Start(const Job&, JobSink&) override {}
  void Cancel(const std::string&) override {}
  void Shutdown() override {}
};

struct Storm {
  const WatchStormOptions& options;
  std::atomic<int> connected = 0;  // watchers that have disconnects before them
  std::mutex mutex;                // of the rest
  WatchStormReport report;
  Status error;

  void Fail(const Status& status) {
    std::lock_guard lock(mutex);
    if (error.ok()) error = status;
  }
};

// A job's work: reports until nobody disconnects any more.
void Work(Storm& storm, Coordinator& coordinator, const std::string& name) {
  using Kind = JobInput::Kind;
  const auto report = [&](Kind kind) {
    JobInput input{.kind = kind, .attempt = 1};
    input.log.set_text("a line");
    const Status status = coordinator.Report(name, input).status();
    if (!status.ok()) storm.Fail(status);
  };
  report(Kind::kStart);
  report(Kind::kRun);
  for (int i = 0; storm.connected > 0; ++i) {
    report(i % 4 == 0 ? Kind::kLog : Kind::kProgress);
    if (storm.options.events_per_second > 0) {
      absl::SleepFor(absl::Seconds(1 / storm.options.events_per_second));
    }
  }
  report(Kind::kPublish);
  report(Kind::kSucceed);
}

class Watcher {
 public:
  Watcher(Storm& storm, int port, std::string job, uint64_t seed)
      : storm_(storm), stub_(ConnectTo(port)), job_(std::move(job)), random_(seed) {}

  void Run() {
    for (int i = 0; i < storm_.options.disconnects; ++i) {
      Connect(std::uniform_int_distribution<int64_t>(0, 10)(random_));
    }
    --storm_.connected;
    while (!ended_ && Ok()) Connect(INT64_MAX);
    std::lock_guard lock(storm_.mutex);
    WatchStormReport& all = storm_.report;
    all.events += mine_.events;
    all.lost += mine_.lost;
    all.repeated += mine_.repeated;
    all.compacted += mine_.compacted;
    all.lags.insert(all.lags.end(), mine_.lags.begin(), mine_.lags.end());
  }

 private:
  bool Ok() {
    std::lock_guard lock(storm_.mutex);
    return storm_.error.ok();
  }

  // Resumes, and disconnects after so many events.
  void Connect(int64_t events) {
    grpc::ClientContext context;
    v1::WatchQuantizeModelJobRequest request;
    request.set_name(job_);
    request.set_after_revision(last_);
    const auto reader = stub_->WatchQuantizeModelJob(&context, request);
    bool live = false, open = true;
    v1::JobEvent event;
    for (int64_t i = 0; i < events && (open = reader->Read(&event)); ++i) {
      if (event.has_bookmark()) {
        live = true;
      } else {
        Take(event, live);
      }
    }
    if (open) context.TryCancel();
    const Status status = FromGrpcStatus(reader->Finish());
    if (status.ok()) ended_ = true;
    if (status.ok() || absl::IsCancelled(status) || absl::IsUnavailable(status)) return;
    if (ReasonOf(status) != reason::kRevisionCompacted) return storm_.Fail(status);
    ++mine_.compacted;
    last_ = 0;
  }

  void Take(const v1::JobEvent& event, bool live) {
    ++mine_.events;
    const bool anew = last_ == 0 && mine_.compacted > 0;
    if (event.revision() <= last_) ++mine_.repeated;
    if (event.revision() > last_ + 1 && !anew) mine_.lost += event.revision() - last_ - 1;
    last_ = std::max(last_, event.revision());
    if (!live) return;
    const absl::Time time =
        FromTimestamp(event.has_log() ? event.log().log_time() : event.snapshot().update_time());
    mine_.lags.push_back(absl::ToDoubleSeconds(absl::Now() - time));
  }

  Storm& storm_;
  const std::unique_ptr<v1::QuantizationService::Stub> stub_;
  const std::string job_;
  std::mt19937_64 random_;
  WatchStormReport mine_;
  int64_t last_ = 0;
  bool ended_ = false;
};

}  // namespace

StatusOr<WatchStormReport> RunWatchStorm(const std::string& address, const std::string& folder,
                                         const WatchStormOptions& options) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<StateStore> store, OpenStateStore(address));
  CVXQ_ASSIGN_OR_RETURN(const StoragePolicy policy, StoragePolicy::Make({folder}));
  IdleExecutor executor;
  Metrics metrics("test");
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Coordinator> coordinator,
                        Coordinator::Start(*store, executor, policy, metrics, {}));
  ServerOptions server_options;
  server_options.listen = "127.0.0.1:0";
  server_options.rate = 0;
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ApiServer> server,
                        ApiServer::Start(*coordinator, server_options));
  std::vector<std::string> jobs;
  const std::unique_ptr<v1::QuantizationService::Stub> stub = ConnectTo(server->port());
  for (int i = 0; i < options.jobs; ++i) {
    grpc::ClientContext context;
    google::longrunning::Operation operation;
    CVXQ_RETURN_IF_ERROR(FromGrpcStatus(
        stub->CreateQuantizeModelJob(&context, NumberedRequest(folder, i), &operation)));
    v1::JobMetadata metadata;
    operation.metadata().UnpackTo(&metadata);
    jobs.push_back(metadata.job());
  }
  const absl::Time start = absl::Now();
  Storm storm{.options = options, .connected = options.watchers};
  std::vector<std::thread> threads;
  for (const std::string& job : jobs) {
    threads.emplace_back([&] { Work(storm, *coordinator, job); });
  }
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int i = 0; i < options.watchers; ++i) {
    watchers.push_back(std::make_unique<Watcher>(storm, server->port(),
                                                 jobs[static_cast<size_t>(i) % jobs.size()],
                                                 options.seed + static_cast<uint64_t>(i)));
    threads.emplace_back([&watcher = *watchers.back()] { watcher.Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  server->Shutdown();
  coordinator->Shutdown();
  CVXQ_RETURN_IF_ERROR(storm.error);
  storm.report.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::sort(storm.report.lags.begin(), storm.report.lags.end());
  return storm.report;
}

}  // namespace cvxq
