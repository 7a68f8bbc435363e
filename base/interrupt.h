// Stopping cleanly on Ctrl-C or a polite kill.
//
//   InstallInterruptHandler();                       // once, in main
//   for (...) {
//     CVXQ_RETURN_IF_ERROR(CheckInterrupted());      // between steps of long work
//     ...
//   }
#ifndef CVXQ_BASE_INTERRUPT_H_
#define CVXQ_BASE_INTERRUPT_H_

#include <atomic>

#include "base/status.h"

namespace cvxq {

// After it the first SIGINT, SIGTERM or SIGHUP only sets a flag, so that the work in hand ends in
// order and partial output is removed; the second ends the process at once with exit code 130.
void InstallInterruptHandler();

// Whether such a signal has come, or the work of this thread was told to stop (StopScope). Any
// thread, cheap enough for inner loops.
bool Interrupted();

// kCancelled "interrupted" if so, otherwise OK.
Status CheckInterrupted();

// Lets one of several pieces of work in a process be stopped: while it lives, the two functions
// above look at `stop` too, on this thread and on those of every ThreadPool that it makes.
//
//   std::atomic<bool> stop = false;          // set by another thread
//   StopScope scope(&stop);
//   Quantize(...);                           // kCancelled once it is set
class StopScope {
 public:
  // `stop` must outlive the scope and the pools made in it; nullptr: none.
  explicit StopScope(const std::atomic<bool>* stop);
  ~StopScope();
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

  // Of the innermost scope of this thread; nullptr: none.
  static const std::atomic<bool>* Current();

 private:
  const std::atomic<bool>* outer_;
};

}  // namespace cvxq

#endif  // CVXQ_BASE_INTERRUPT_H_
