#include "base/interrupt.h"

#include <signal.h>
#include <unistd.h>

namespace cvxq {
namespace {

std::atomic<bool> interrupted = false;
thread_local const std::atomic<bool>* stop_of_thread = nullptr;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not take a lock");

void HandleSignal(int) {
  if (interrupted.exchange(true)) _exit(130);
}

}  // namespace

void InstallInterruptHandler() {
  struct sigaction action = {};
  action.sa_handler = HandleSignal;
  // Reads and writes in progress go on: the flag is looked at between steps, not in system calls.
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGHUP, &action, nullptr);  // the terminal went away
}

bool Interrupted() {
  return interrupted.load(std::memory_order_relaxed) ||
         (stop_of_thread != nullptr && stop_of_thread->load(std::memory_order_relaxed));
}

Status CheckInterrupted() {
  return Interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

StopScope::StopScope(const std::atomic<bool>* stop) : outer_(stop_of_thread) {
  stop_of_thread = stop;
}

StopScope::~StopScope() { stop_of_thread = outer_; }

const std::atomic<bool>* StopScope::Current() { return stop_of_thread; }

}  // namespace cvxq
