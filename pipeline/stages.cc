#include "pipeline/stages.h"

#include "absl/strings/str_format.h"

namespace cvxq {

Status Stages::MoreGradients(const GradientPass&, int64_t, Progress&, WaveCommits*) {
  return absl::UnimplementedError("a model that is cut into stages has one pass for gradients");
}

Status Stages::LoadAverages(int64_t) {
  return absl::UnimplementedError("a model that is cut into stages has one pass for gradients");
}

void NoteOutputDamping(double damping, Progress& progress) {
  if (damping <= 0) return;
  progress.Note(
      absl::StrFormat("some output moments took extra damping, up to %g of their mean", damping));
}

void NoteInputDamping(double damping, double asked, Progress& progress) {
  if (damping <= asked) return;
  progress.Note(
      absl::StrFormat("some input moments took more damping, up to %g of their mean", damping));
}

}  // namespace cvxq
