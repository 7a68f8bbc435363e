// A second process of a test, which reports numbers through a pipe and can be killed.
#ifndef CVXQ_TESTS_SERVICE_CHILD_PROCESS_H_
#define CVXQ_TESTS_SERVICE_CHILD_PROCESS_H_

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <optional>

namespace cvxq {

class ChildProcess {
 public:
  // What the child sees of its parent.
  class Link {
   public:
    Link(int in, int out) : in_(in), out_(out) {}
    void Report(int64_t number) const {
      if (write(out_, &number, sizeof(number)) != sizeof(number)) _exit(3);
    }
    // Waits until the parent calls Continue.
    void Wait() const {
      char byte;
      if (read(in_, &byte, 1) != 1) _exit(3);
    }

   private:
    int in_, out_;
  };

  // Runs `body` in a child, which then ends; nothing of the parent's is destroyed there. Call this
  // where no other thread runs.
  explicit ChildProcess(const std::function<void(const Link&)>& body) {
    int up[2], down[2];
    if (pipe(up) != 0 || pipe(down) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(up[0]);
      close(down[1]);
      body(Link(down[0], up[1]));
      _exit(0);
    }
    close(up[1]);
    close(down[0]);
    from_ = up[0];
    to_ = down[1];
  }
  ~ChildProcess() {
    Kill();
    close(from_);
    close(to_);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // The next number; nothing where the child has ended.
  std::optional<int64_t> Next() {
    int64_t number;
    if (read(from_, &number, sizeof(number)) != sizeof(number)) return std::nullopt;
    return number;
  }
  void Continue() {
    if (write(to_, "x", 1) != 1) abort();
  }
  // kill -9; numbers that it has reported can still be read.
  void Kill() {
    if (pid_ < 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  int from_ = -1, to_ = -1;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_CHILD_PROCESS_H_
