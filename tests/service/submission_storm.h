// Many clients that submit jobs to a coordinator which is killed all the time, through connections
// that break; and clients that submit at a steady rate. For tests and for bench/service.cc.
#ifndef CVXQ_TESTS_SERVICE_SUBMISSION_STORM_H_
#define CVXQ_TESTS_SERVICE_SUBMISSION_STORM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cvxq/v1/quantization_service.grpc.pb.h"
#include "tests/service/coordinator_process.h"

namespace cvxq {

// A connection of its own to the port on the loopback; nothing is sent again by itself.
std::unique_ptr<v1::QuantizationService::Stub> ConnectTo(int port);

// A request for a job that may use `folder`; the same for the same number.
v1::CreateQuantizeModelJobRequest NumberedRequest(const std::string& folder, int64_t number);

// The names of all jobs of the project "p", in order.
StatusOr<std::vector<std::string>> ListJobs(v1::QuantizationService::Stub& stub);

struct StormOptions {
  int64_t requests = 200;
  int sends = 3;         // of each request, about at the same time
  double dropped = 0.2;  // share of calls whose connection is cut when the server answers
  int kills = 5;         // kill -9 of the coordinator, with a start at once
  int clients = 8;
  uint64_t seed = 1;
};

struct StormReport {
  int64_t calls = 0, cut = 0, failed = 0;  // failed: by a cut, or by a coordinator that was gone
  int64_t jobs = 0;                        // that the coordinator has in the end
  int64_t disagreeing = 0;                 // answers that named another job than an earlier one
  int64_t unknown = 0;                     // jobs in answers that it does not have in the end
  std::vector<double> recovery;  // seconds from each kill to the next coordinator's answer
  double seconds = 0;
};

// Sends each request until it was answered so often. The coordinator runs no jobs ("--jobs", "0").
StatusOr<StormReport> RunStorm(CoordinatorProcess& coordinator, const StormOptions& options);

// Submits at fixed times whatever the answers take, and gives the seconds from the time when each
// request was to be sent to its answer, in ascending order. Requests are numbered from `first`.
StatusOr<std::vector<double>> SubmitSteadily(const CoordinatorProcess& coordinator, int64_t first,
                                             double per_second, double seconds);

// Of sorted values; `share` in [0, 1].
double Quantile(const std::vector<double>& sorted, double share);

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_SUBMISSION_STORM_H_
