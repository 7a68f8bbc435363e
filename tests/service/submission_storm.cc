#include "tests/service/submission_storm.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_format.h"
#include "service/api/grpc_status.h"
#include "tests/service/tcp_proxy.h"

namespace cvxq {
namespace {

using Clock = std::chrono::steady_clock;
using Stub = v1::QuantizationService::Stub;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The job that a request has made.
StatusOr<std::string> Submit(Stub& stub, const v1::CreateQuantizeModelJobRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  context.set_wait_for_ready(true);
  google::longrunning::Operation operation;
  CVXQ_RETURN_IF_ERROR(FromGrpcStatus(stub.CreateQuantizeModelJob(&context, request, &operation)));
  v1::JobMetadata metadata;
  if (!operation.metadata().UnpackTo(&metadata)) return absl::InternalError("a strange answer");
  return metadata.job();
}

// What the clients of a storm share.
struct Storm {
  const StormOptions& options;
  const std::string& folder;
  std::atomic<int64_t> next = 0, done = 0;  // sendings begun and answered
  std::mutex mutex;                         // of the rest
  std::vector<std::string> names;           // the job of each request, as the first answer said
  StormReport report;
  Status error;

  int64_t total() const { return options.requests * options.sends; }
};

// One client: takes the next sending, and repeats it until it is answered.
void SendRequests(Storm& storm, TcpProxy& proxy, uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::unique_ptr<Stub> stub = ConnectTo(proxy.port());
  for (int64_t i; (i = storm.next++) < storm.total();) {
    const int64_t number = i / storm.options.sends;
    const v1::CreateQuantizeModelJobRequest request = NumberedRequest(storm.folder, number);
    for (bool answered = false; !answered;) {
      const bool cut = std::uniform_real_distribution<>()(random) < storm.options.dropped;
      proxy.Fail(cut ? TcpProxy::Fault::kLoseReply : TcpProxy::Fault::kNone);
      const StatusOr<std::string> name = Submit(*stub, request);
      std::lock_guard lock(storm.mutex);
      ++storm.report.calls;
      storm.report.cut += cut ? 1 : 0;
      if (!name.ok()) {
        ++storm.report.failed;
        if (absl::IsUnavailable(name.status())) continue;
        storm.error = name.status();
        ++storm.done;
        break;
      }
      answered = true;
      ++storm.done;
      std::string& first = storm.names[static_cast<size_t>(number)];
      if (first.empty()) first = *name;
      if (first != *name) ++storm.report.disagreeing;
    }
  }
}

}  // namespace

std::unique_ptr<Stub> ConnectTo(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  arguments.SetMaxReceiveMessageSize(64 << 20);
  return v1::QuantizationService::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments));
}

v1::CreateQuantizeModelJobRequest NumberedRequest(const std::string& folder, int64_t number) {
  v1::CreateQuantizeModelJobRequest request;
  request.set_parent("projects/p");
  request.set_request_id(absl::StrFormat("00000000-0000-4000-8000-%012x", number));
  auto& job = *request.mutable_quantize_model_job();
  job.mutable_source()->set_uri(folder + "/model");
  job.mutable_output()->set_uri(absl::StrCat(folder, "/out-", number));
  job.mutable_spec()->set_bits(3);
  return request;
}

StatusOr<std::vector<std::string>> ListJobs(Stub& stub) {
  std::vector<std::string> names;
  v1::ListQuantizeModelJobsRequest request;
  request.set_parent("projects/p");
  request.set_page_size(1000);
  do {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    v1::ListQuantizeModelJobsResponse page;
    CVXQ_RETURN_IF_ERROR(FromGrpcStatus(stub.ListQuantizeModelJobs(&context, request, &page)));
    for (const auto& job : page.quantize_model_jobs()) names.push_back(job.name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return names;
}

StatusOr<StormReport> RunStorm(CoordinatorProcess& coordinator, const StormOptions& options) {
  Storm storm{.options = options, .folder = coordinator.folder()};
  storm.names.resize(static_cast<size_t>(options.requests));
  const Clock::time_point start = Clock::now();
  std::vector<std::unique_ptr<TcpProxy>> proxies;
  for (int i = 0; i < options.clients; ++i) {
    CVXQ_ASSIGN_OR_RETURN(proxies.emplace_back(),
                          TcpProxy::Start(absl::StrCat(coordinator.port())));
  }
  std::vector<std::thread> clients;
  for (size_t i = 0; i < proxies.size(); ++i) {
    clients.emplace_back([&storm, &proxy = *proxies[i], seed = options.seed + i] {
      SendRequests(storm, proxy, seed);
    });
  }
  // Each kill comes at a random place of its equal share of the work.
  std::mt19937_64 random(options.seed);
  for (int kill = 0; kill < options.kills; ++kill) {
    const double place = kill + std::uniform_real_distribution<>(0.1, 0.9)(random);
    const auto at =
        static_cast<int64_t>(static_cast<double>(storm.total()) * place / options.kills);
    while (storm.done < at) std::this_thread::sleep_for(std::chrono::microseconds(200));
    const Clock::time_point killed = Clock::now();
    coordinator.Kill();
    coordinator.Start();
    storm.report.recovery.push_back(SecondsSince(killed));
  }
  for (std::thread& client : clients) client.join();
  CVXQ_RETURN_IF_ERROR(storm.error);
  storm.report.seconds = SecondsSince(start);
  CVXQ_ASSIGN_OR_RETURN(const std::vector<std::string> jobs,
                        ListJobs(*ConnectTo(coordinator.port())));
  storm.report.jobs = static_cast<int64_t>(jobs.size());
  const std::set<std::string> there(jobs.begin(), jobs.end());
  for (const std::string& name : storm.names) {
    if (!there.contains(name)) ++storm.report.unknown;
  }
  return storm.report;
}

StatusOr<std::vector<double>> SubmitSteadily(const CoordinatorProcess& coordinator, int64_t first,
                                             double per_second, double seconds) {
  constexpr int kClients = 32;
  const auto count = static_cast<int64_t>(per_second * seconds);
  const std::unique_ptr<Stub> stub = ConnectTo(coordinator.port());
  CVXQ_RETURN_IF_ERROR(ListJobs(*stub).status());  // connected
  const Clock::time_point start = Clock::now() + std::chrono::milliseconds(100);
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  std::vector<double> latencies;
  Status error;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&] {
      for (int64_t i; (i = next++) < count;) {
        const auto request = NumberedRequest(coordinator.folder(), first + i);
        const auto intended =
            start + std::chrono::duration_cast<Clock::duration>(
                        std::chrono::duration<double>(static_cast<double>(i) / per_second));
        std::this_thread::sleep_until(intended);
        const Status status = Submit(*stub, request).status();
        std::lock_guard lock(mutex);
        if (!status.ok()) error = status;
        latencies.push_back(SecondsSince(intended));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  CVXQ_RETURN_IF_ERROR(error);
  std::sort(latencies.begin(), latencies.end());
  return latencies;
}

double Quantile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const double place = std::ceil(share * static_cast<double>(sorted.size())) - 1;
  return sorted[static_cast<size_t>(std::max(0.0, place))];
}

}  // namespace cvxq
