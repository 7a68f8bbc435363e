#include "pipeline/job_steps.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/interrupt.h"
#include "pipeline/linear_plan.h"
#include "pipeline/stage.h"

namespace cvxq {
namespace {

std::string Describe(const JobPosition& position) {
  if (position == JobPosition{}) return "parts of the first step";
  if (position.step == 0) return absl::StrCat(position.waves, " waves of gradients");
  if (position.step == kGradientStep) return "gradients";
  if (position.step == kMomentStep && position.waves == 0) return "the first statistics";
  const std::string steps =
      absl::StrCat("statistics and ", position.step - kMomentStep, " steps of coding");
  if (position.waves == 0) return steps;
  return absl::StrCat(steps, " and ", position.waves, " waves of more gradients");
}

}  // namespace

JobSteps::JobSteps(std::unique_ptr<Stages> stages, JobState* state, double save_seconds,
                   double damping, Progress& progress)
    : stages_(std::move(stages)),
      state_(state),
      clock_(save_seconds),
      damping_(damping),
      progress_(progress) {}

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
    NoteBegin(commit->position);
    last_ = *std::move(commit);
    return absl::OkStatus();
  }
  if (!absl::IsDataLoss(restored)) return restored;
  progress_.Note(absl::StrCat("what an earlier run has left cannot be used, so it is done again: ",
                              restored.message()));
  CVXQ_RETURN_IF_ERROR(state_->Remove());
  return stages_->Restore({});
}

void JobSteps::NoteBegin(const JobPosition& position) {
  progress_.Note(absl::StrCat("going on behind ", Describe(position), " of an earlier run (",
                              state_->address(), ")"));
}

// For what an earlier run of this job has left; what others have left goes.
Status JobSteps::Look(std::optional<JobCommit>& commit) {
  CVXQ_ASSIGN_OR_RETURN(const JobState::Held held, state_->Look());
  if (held.others) {
    progress_.Note(absl::StrCat("what ", state_->address(),
                                " holds is of another job or model: it is removed"));
    CVXQ_RETURN_IF_ERROR(state_->Remove());
  }
  CVXQ_ASSIGN_OR_RETURN(commit, state_->Last());
  if (held.own && !held.others && !commit) NoteBegin({});
  return absl::OkStatus();
}

Status JobSteps::Gradients() {
  step_ = kGradientStep;
  if (last_.position.step < step_) {
    CVXQ_ASSIGN_OR_RETURN(last_.output_damping,
                          stages_->Gradients(progress_, state_ != nullptr ? this : nullptr));
  }
  NoteOutputDamping(last_.output_damping, progress_);
  return Done();
}

Status JobSteps::Moments() {
  step_ = kMomentStep;
  if (last_.position.step < step_) {
    CVXQ_ASSIGN_OR_RETURN(last_.input_damping, stages_->Moments(progress_));
  }
  NoteInputDamping(last_.input_damping, damping_, progress_);
  return Done();
}

StatusOr<EntropyAnswer> JobSteps::CarryOut(const EntropyOrder& order, Progress::Phase& phase) {
  step_ = std::max(step_, kMomentStep) + 1;
  const size_t number = step_ - kMomentStep - 1;
  if (step_ <= last_.position.step) {
    phase.Advance(static_cast<int64_t>(last_.answers[number].linears.size()));
    return last_.answers[number].Answer();
  }
  CVXQ_ASSIGN_OR_RETURN(EntropyAnswer answer, stages_->CarryOut(order, step_, phase));
  last_.answers.resize(number);
  last_.answers.push_back(KeptAnswer::Of(answer));
  for (const EntropyOrder::Block& block : order.blocks) {
    if (order.kind != EntropyOrder::Kind::kCode) break;
    const size_t index = static_cast<size_t>(block.block);
    if (last_.coded.size() <= index) last_.coded.resize(index + 1);
    last_.coded[index] = step_;
  }
  CVXQ_RETURN_IF_ERROR(Done());
  return answer;
}

Status JobSteps::MoreGradients(const GradientPass& pass) {
  // Averages take the place of what they are made of.
  if (pass.iteration > 0) CVXQ_RETURN_IF_ERROR(Keep());
  step_ = std::max(step_, kMomentStep) + 1;
  if (step_ <= last_.position.step) return stages_->LoadAverages(step_);
  CVXQ_RETURN_IF_ERROR(
      stages_->MoreGradients(pass, step_, progress_, state_ != nullptr ? this : nullptr));
  last_.answers.resize(step_ - kMomentStep);
  last_.coded.clear();  // codes of an earlier iteration are no beginning for those to come
  return Done();
}

Status JobSteps::Collect(const EntropyTables* tables, std::vector<LinearPlan>& plans) {
  if (step_ < last_.position.step) return absl::OkStatus();  // these codes have been replaced
  CVXQ_RETURN_IF_ERROR(stages_->Collect(tables, plans));
  std::vector<int64_t> bytes(plans.size());  // of each linear, as the last order on it was answered
  for (const KeptAnswer& answer : last_.answers) {
    for (const EntropyAnswer::Linear& linear : answer.linears) bytes.at(linear.plan) = linear.bytes;
  }
  for (const LinearPlan& plan : plans) {
    if (!plan.packed.empty() && static_cast<int64_t>(plan.packed.size()) == bytes[plan.index]) {
      continue;
    }
    return absl::DataLossError(
        absl::StrCat(plan.name, ": the stages gave other codes than they had told of"));
  }
  return absl::OkStatus();
}

Status JobSteps::Keep() {
  return state_ != nullptr && last_.position.step < step_ ? Save() : absl::OkStatus();
}

bool JobSteps::Due() { return state_ != nullptr && clock_.Due(); }

Status JobSteps::Done() { return last_.position.step < step_ && Due() ? Save() : absl::OkStatus(); }

Status JobSteps::Save() {
  const absl::Time begin = absl::Now();
  const Status saved = stages_->Save(step_);
  if (!saved.ok()) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    GiveUp(saved);
    return absl::OkStatus();
  }
  Commit(JobPosition{.step = step_});
  clock_.Saved(absl::Now() - begin);
  return absl::OkStatus();
}

void JobSteps::GiveUp(const Status& status) {
  progress_.Note(
      absl::StrCat("what is done cannot be kept, the job goes on without: ", status.message()));
  state_ = nullptr;
}

void JobSteps::Commit(int64_t waves, absl::Duration took) {
  Commit(JobPosition{.step = step_ - 1, .waves = waves});
  clock_.Saved(took);
}

// Stages are told before anything is removed that a lost one would begin with.
void JobSteps::Commit(const JobPosition& position) {
  if (state_ == nullptr) return;
  last_.position = position;
  Status status = state_->Commit(last_);
  if (!status.ok()) return GiveUp(status);
  stages_->Committed(position);
  status = state_->RemoveBefore(position);
  if (!status.ok()) GiveUp(status);
}

}  // namespace cvxq
