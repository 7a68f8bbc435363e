// Stands for Quantize() in tests of what is around it: begins, waits for the test, publishes.
#ifndef CVXQ_TESTS_SERVICE_FAKE_WORK_H_
#define CVXQ_TESTS_SERVICE_FAKE_WORK_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/interrupt.h"
#include "pipeline/output.h"
#include "pipeline/quantize.h"
#include "storage/files.h"

namespace cvxq {

class FakeWork {
 public:
  // Lets so many jobs, that wait now or later, go on.
  void Release(int count) {
    std::lock_guard lock(mutex_);
    released_ += count;
    changed_.notify_all();
  }
  // The next job that goes on ends with this error.
  void FailNext(Status error) {
    std::lock_guard lock(mutex_);
    error_ = std::move(error);
  }
  // Until `count` jobs have begun since the test did.
  void WaitUntilBegun(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return begun_ >= count; });
  }

  StatusOr<QuantizeReport> operator()(const QuantizeOptions& options, Progress& progress) {
    auto phase = progress.Start("gradients", 10, "sequences");
    phase.Advance(5);
    progress.Note("calibration: none");
    progress.Figure("size_ratio", 1.25);
    {
      std::unique_lock lock(mutex_);
      ++begun_;
      changed_.notify_all();
      // The flag that stops a job wakes nobody.
      while (released_ == 0 && !Interrupted()) {
        changed_.wait_for(lock, std::chrono::milliseconds(2));
      }
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      --released_;
      if (!error_.ok()) return std::exchange(error_, absl::OkStatus());
    }
    phase.Done();
    CVXQ_ASSIGN_OR_RETURN(const auto output, Output::Create(options.output, false));
    const std::string file = output->folder() + "/model.safetensors";
    CVXQ_RETURN_IF_ERROR(WriteFile(file, "weights"));
    QuantizeReport report;
    report.bits_per_weight = options.bits.value_or(0);
    CVXQ_ASSIGN_OR_RETURN(report.sha256["model.safetensors"], FileSha256(file));
    CVXQ_RETURN_IF_ERROR(output->Upload(nlohmann::json::object()));
    CVXQ_RETURN_IF_ERROR(options.before_publish(report));
    CVXQ_RETURN_IF_ERROR(output->Publish());
    return report;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int begun_ = 0, released_ = 0;
  Status error_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_FAKE_WORK_H_
