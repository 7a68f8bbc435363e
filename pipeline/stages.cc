#include "pipeline/stages.h"

#include "absl/strings/str_format.h"

namespace cvxq {

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
