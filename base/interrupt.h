// Stopping cleanly on Ctrl-C or a polite kill.
//
//   InstallInterruptHandler();                       // once, in main
//   for (...) {
//     CVXQ_RETURN_IF_ERROR(CheckInterrupted());      // between steps of long work
//     ...
//   }
#ifndef CVXQ_BASE_INTERRUPT_H_
#define CVXQ_BASE_INTERRUPT_H_

#include "base/status.h"

namespace cvxq {

// After it the first SIGINT, SIGTERM or SIGHUP only sets a flag, so that the work in hand ends in
// order and partial output is removed; the second ends the process at once with exit code 130.
void InstallInterruptHandler();

// Whether such a signal has come. Any thread, cheap enough for inner loops.
bool Interrupted();

// kCancelled "interrupted" if a signal has come, otherwise OK.
Status CheckInterrupted();

}  // namespace cvxq

#endif  // CVXQ_BASE_INTERRUPT_H_
