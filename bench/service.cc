// The claims: a request to make a job makes one job, whatever breaks; a submit takes at most 50 ms
// (99 of 100, at 100 a second); a coordinator that was killed is replaced within 10 s; a watch
// loses, repeats and reorders nothing, and lags at most 1 s.
//
//   bench_service submissions [REQUESTS] [KILLS]      (default 10000 50)
//   bench_service watchers [WATCHERS] [DISCONNECTS]   (default 200 100)
//
// Both against both stores: SQLite in a file, and a redis-server of its own that flushes every
// write. Submissions go to a coordinator in a process of its own that runs no jobs (--jobs 0): each
// request is sent three times, through a proxy that cuts a fifth of the connections when the server
// answers, while the coordinator is killed (kill -9) and started again. Watchers follow 10 jobs of
// 20 events a second through a server in this process.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "service/api/grpc_log.h"
#include "service/log.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/service/redis_server.h"
#include "tests/service/submission_storm.h"
#include "tests/service/watch_storm.h"

namespace cvxq {
namespace {

void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench_service: %s\n", status.ToString().c_str());
  std::exit(1);
}

// One kind of store, empty.
class Place {
 public:
  explicit Place(bool redis) {
    if (redis) server_ = std::make_unique<RedisServer>(scratch_.path());
  }
  std::string address() const {
    return server_ != nullptr ? server_->address() : "sqlite:" + scratch_.path() + "/jobs.db";
  }
  const std::string& folder() const { return scratch_.path(); }

 private:
  ScratchFolder scratch_;
  std::unique_ptr<RedisServer> server_;
};

void Submissions(bool redis, int64_t requests, int kills) {
  const Place place(redis);
  CoordinatorProcess coordinator(place.address(), place.folder(), {"--jobs", "0"});
  // On a store with nothing in it yet.
  const auto latencies = SubmitSteadily(coordinator, 1'000'000, 100, 20);
  Check(latencies.status());
  const auto before = static_cast<int64_t>(latencies->size());
  StormOptions options;
  options.requests = requests;
  options.kills = kills;
  const StatusOr<StormReport> report = RunStorm(coordinator, options);
  Check(report.status());
  const auto later = SubmitSteadily(coordinator, 2'000'000, 100, 20);
  Check(later.status());
  double slowest = 0;
  for (const double seconds : report->recovery) slowest = std::max(slowest, seconds);
  std::printf(
      "  requests %lld, calls %lld, connections cut %lld, calls failed %lld, kills %zu, %.0f s\n",
      static_cast<long long>(requests), static_cast<long long>(report->calls),
      static_cast<long long>(report->cut), static_cast<long long>(report->failed),
      report->recovery.size(), report->seconds);
  std::printf(
      "  jobs in the end               %lld (to be %lld), disagreeing answers %lld, lost %lld\n",
      static_cast<long long>(report->jobs - before), static_cast<long long>(requests),
      static_cast<long long>(report->disagreeing), static_cast<long long>(report->unknown));
  std::printf("  calls answered a second       %.0f\n",
              static_cast<double>(3 * requests) / report->seconds);
  if (!report->recovery.empty()) {
    std::printf("  kill -9 to answering          last %.2f s (%lld jobs), slowest %.2f s\n",
                report->recovery.back(), static_cast<long long>(report->jobs), slowest);
  }
  std::printf("  submit at 100/s, empty        p50 %.1f ms, p99 %.1f ms, most %.1f ms\n",
              1e3 * Quantile(*latencies, 0.5), 1e3 * Quantile(*latencies, 0.99),
              1e3 * latencies->back());
  std::printf("  submit at 100/s, %6lld jobs  p50 %.1f ms, p99 %.1f ms, most %.1f ms\n",
              static_cast<long long>(report->jobs), 1e3 * Quantile(*later, 0.5),
              1e3 * Quantile(*later, 0.99), 1e3 * later->back());
}

void Watchers(bool redis, int watchers, int disconnects) {
  const Place place(redis);
  WatchStormOptions options;
  options.watchers = watchers;
  options.disconnects = disconnects;
  options.jobs = 10;
  const StatusOr<WatchStormReport> report = RunWatchStorm(place.address(), place.folder(), options);
  Check(report.status());
  std::printf("  watchers %d, disconnects %lld, events %lld, %.0f s\n", watchers,
              static_cast<long long>(watchers) * disconnects,
              static_cast<long long>(report->events), report->seconds);
  std::printf("  lost %lld, repeated or out of order %lld, told to begin anew %lld\n",
              static_cast<long long>(report->lost), static_cast<long long>(report->repeated),
              static_cast<long long>(report->compacted));
  std::printf("  lag                           p50 %.1f ms, p99 %.1f ms, most %.1f ms\n",
              1e3 * Quantile(report->lags, 0.5), 1e3 * Quantile(report->lags, 0.99),
              report->lags.empty() ? 0 : 1e3 * report->lags.back());
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const bool submissions = argc > 1 && std::strcmp(argv[1], "submissions") == 0;
  const bool watchers = argc > 1 && std::strcmp(argv[1], "watchers") == 0;
  if (!submissions && !watchers) {
    std::fprintf(stderr,
                 "usage: bench_service submissions [REQUESTS] [KILLS]\n"
                 "       bench_service watchers [WATCHERS] [DISCONNECTS]\n");
    return 2;
  }
  cvxq::SilenceGrpc();
  cvxq::SetLogSink([](std::string_view) {});
  const int first = argc > 2 ? std::atoi(argv[2]) : submissions ? 10'000 : 200;
  const int second = argc > 3 ? std::atoi(argv[3]) : submissions ? 50 : 100;
  for (const bool redis : {false, true}) {
    if (redis && !cvxq::RedisServer::Installed()) continue;
    std::printf("%s\n", redis ? "Redis, appendfsync always" : "SQLite");
    submissions ? cvxq::Submissions(redis, first, second) : cvxq::Watchers(redis, first, second);
  }
}
