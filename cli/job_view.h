// How commands show jobs.
#ifndef CVXQ_CLI_JOB_VIEW_H_
#define CVXQ_CLI_JOB_VIEW_H_

#include <memory>
#include <string>

#include "base/progress.h"
#include "cvxq/v1/quantization_service.pb.h"
#include "nlohmann/json.hpp"
#include "service/job.h"

namespace cvxq {

// Keys are kept stable: name, uid, state, revision, attempt, create_time, update_time, source,
// output, percent, phase, remaining_seconds (null: unknown), error (null, or code, message,
// reason), result (null, or as quantize --json names its parts).
nlohmann::ordered_json JobJson(const Job& job);

// "projects/default/quantizeModelJobs/llama   RUNNING   42 %   code".
std::string JobLine(const Job& job);

// A job's end as the exit of a command: OK, or its error.
Status OutcomeOf(const Job& job);

// Shows the events of a watch as progress on standard error.
class WatchView {
 public:
  explicit WatchView(Progress& progress) : progress_(progress) {}
  void Show(const v1::JobEvent& event);

 private:
  Progress& progress_;
  std::unique_ptr<Progress::Phase> phase_;
  std::string phase_name_;
  int64_t done_ = 0;
  Job::State state_ = Job::STATE_UNSPECIFIED;
};

}  // namespace cvxq

#endif  // CVXQ_CLI_JOB_VIEW_H_
