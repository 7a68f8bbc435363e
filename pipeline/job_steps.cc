#include "pipeline/job_steps.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/interrupt.h"
#include "pipeline/linear_plan.h"

namespace cvxq {
namespace {

constexpr int kWorkForSaving = 9;  // at least so many times what a save takes lies between two

std::string Describe(const JobPosition& position) {
  if (position.step == 0) return absl::StrCat(position.waves, " waves of gradients");
  if (position.step == kGradientStep) return "gradients";
  if (position.step == kMomentStep) return "gradients and input moments";
  return absl::StrCat("statistics and ", position.step - kMomentStep, " orders of coding");
}

}  // namespace

JobSteps::JobSteps(std::unique_ptr<Stages> stages, JobState* state, double save_seconds,
                   double damping, Progress& progress)
    : stages_(std::move(stages)),
      state_(state),
      interval_(absl::Seconds(save_seconds)),
      damping_(damping),
      progress_(progress),
      next_save_(absl::Now() + interval_) {}

Status JobSteps::Begin() {
  if (state_ == nullptr) return stages_->Restore({});
  std::optional<JobCommit> commit;
  const Status looked = Look(commit);
  if (absl::IsPermissionDenied(looked) || absl::IsUnavailable(looked)) {
    GiveUp(looked);
    return stages_->Restore({});
  }
  CVXQ_RETURN_IF_ERROR(looked);
  if (!commit) return stages_->Restore({});
  const Status restored = stages_->Restore(commit->position);
  if (restored.ok()) {
    progress_.Note(absl::StrCat("going on behind ", Describe(commit->position),
                                " of an earlier run (", state_->address(), ")"));
    last_ = *std::move(commit);
    return absl::OkStatus();
  }
  if (!absl::IsDataLoss(restored)) return restored;
  progress_.Note(absl::StrCat("what an earlier run has left cannot be used, so it is done again: ",
                              restored.message()));
  CVXQ_RETURN_IF_ERROR(state_->Remove());
  return stages_->Restore({});
}

// For what an earlier run of this job has left; what others have left goes.
Status JobSteps::Look(std::optional<JobCommit>& commit) {
  CVXQ_ASSIGN_OR_RETURN(const bool others, state_->HoldsOthers());
  if (others) {
    progress_.Note(absl::StrCat("what ", state_->address(),
                                " holds is of another job or model: it is removed"));
    CVXQ_RETURN_IF_ERROR(state_->Remove());
  }
  CVXQ_ASSIGN_OR_RETURN(commit, state_->Last());
  return absl::OkStatus();
}

Status JobSteps::Gradients() {
  step_ = kGradientStep;
  if (last_.position.step < kGradientStep) {
    CVXQ_ASSIGN_OR_RETURN(last_.output_damping,
                          stages_->Gradients(progress_, state_ != nullptr ? this : nullptr));
  }
  NoteOutputDamping(last_.output_damping, progress_);
  return Done(kGradientStep);
}

Status JobSteps::Moments() {
  step_ = kMomentStep;
  if (last_.position.step < kMomentStep) {
    CVXQ_ASSIGN_OR_RETURN(last_.input_damping, stages_->Moments(progress_));
  }
  NoteInputDamping(last_.input_damping, damping_, progress_);
  return Done(kMomentStep);
}

StatusOr<EntropyAnswer> JobSteps::CarryOut(const EntropyOrder& order, Progress::Phase& phase) {
  const size_t number = ++step_ - kMomentStep - 1;
  if (step_ > last_.position.step) {
    CVXQ_ASSIGN_OR_RETURN(EntropyAnswer answer, stages_->CarryOut(order, step_, phase));
    last_.answers.resize(number);
    last_.answers.push_back(KeptAnswer::Of(answer));
    CVXQ_RETURN_IF_ERROR(Done(step_));
    return answer;
  }
  phase.Advance(static_cast<int64_t>(last_.answers[number].linears.size()));
  return last_.answers[number].Answer();
}

Status JobSteps::Collect(const EntropyTables& tables, std::vector<LinearPlan>& plans) {
  CVXQ_RETURN_IF_ERROR(stages_->Collect(tables, plans));
  std::vector<int64_t> bytes(plans.size());  // of each linear, as the last order on it was answered
  for (const KeptAnswer& answer : last_.answers) {
    for (const EntropyAnswer::Linear& linear : answer.linears) bytes.at(linear.plan) = linear.bytes;
  }
  for (const LinearPlan& plan : plans) {
    if (!plan.packed.empty() && static_cast<int64_t>(plan.packed.size()) == bytes[plan.index]) {
      continue;
    }
    return absl::DataLossError(absl::StrCat(
        plan.name, ": the stages gave other codes than they had told of",
        state_ != nullptr ? absl::StrCat("; remove ", state_->address(), " and begin anew") : ""));
  }
  return absl::OkStatus();
}

bool JobSteps::Due() { return state_ != nullptr && absl::Now() >= next_save_; }

Status JobSteps::Done(int64_t step) {
  if (step <= last_.position.step || !Due()) return absl::OkStatus();
  const absl::Time begin = absl::Now();
  const Status saved = stages_->Save(step);
  if (saved.ok()) {
    Commit({.step = step});
    const absl::Duration rest = kWorkForSaving * (absl::Now() - begin);
    next_save_ =
        absl::Now() + (interval_ > absl::ZeroDuration() ? std::max(interval_, rest) : interval_);
    return absl::OkStatus();
  }
  CVXQ_RETURN_IF_ERROR(CheckInterrupted());
  GiveUp(saved);
  return absl::OkStatus();
}

void JobSteps::GiveUp(const Status& status) {
  progress_.Note(
      absl::StrCat("what is done cannot be kept, the job goes on without: ", status.message()));
  state_ = nullptr;
}

void JobSteps::Commit(int64_t waves) {
  Commit(JobPosition{.step = 0, .waves = waves});
  next_save_ = absl::Now() + interval_;
}

void JobSteps::Commit(const JobPosition& position) {
  if (state_ == nullptr) return;
  last_.position = position;
  if (const Status status = state_->Commit(last_); !status.ok()) return GiveUp(status);
  stages_->Committed(position);
}

}  // namespace cvxq
