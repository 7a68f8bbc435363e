// Turns the progress of one attempt (base/progress.h) into reports of its job: quick for the work,
// which may advance a million times, and never waiting for the store.
#ifndef CVXQ_SERVICE_JOB_REPORTER_H_
#define CVXQ_SERVICE_JOB_REPORTER_H_

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/progress.h"
#include "service/executor.h"

namespace cvxq {

class JobReporter {
 public:
  // Reports about each `interval`, and at once when a phase begins or a line is logged. Where a
  // report tells that the attempt is to be dropped, `stop` is set.
  JobReporter(JobSink& sink, std::string name, int32_t attempt, absl::Duration interval,
              std::atomic<bool>& stop);
  // Drops what has not been reported.
  ~JobReporter();

  // For ProgressOptions.listener.
  void Listen(const ProgressUpdate& update);
  // Reports what is left, and that inputs were good; nothing is reported afterwards.
  void Finish();

 private:
  void Work();
  void Send(std::vector<v1::LogLine> lines, const v1::Progress& progress, bool changed);
  void Tell(JobInput input);
  double Fraction() const;
  void End();

  JobSink& sink_;
  const std::string name_;
  const int32_t attempt_;
  const absl::Duration interval_;
  std::atomic<bool>& stop_;
  const absl::Time start_;

  std::mutex mutex_;  // guards all below but `running_`, which one thread uses at a time
  std::condition_variable wake_;
  std::vector<v1::LogLine> lines_;
  std::string phase_;
  int64_t count_ = 0, total_ = 0;
  std::map<std::string, double> figures_;
  double from_ = 0, to_ = 0;  // of the whole work, what the phase begins and ends with
  bool changed_ = false, urgent_ = false, end_ = false;
  bool running_ = false;  // kRun was reported
  std::thread thread_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_REPORTER_H_
