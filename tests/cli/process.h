// Runs the program under test as a user's shell would.
#ifndef CVXQ_TESTS_CLI_PROCESS_H_
#define CVXQ_TESTS_CLI_PROCESS_H_

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

namespace cvxq {

struct ProcessOptions {
  int64_t file_size_limit = -1;    // as ulimit -f, in bytes
  int signal_at_first_stderr = 0;  // sent once anything has come on standard error
  std::string signal_after;        // where given, once this has come there
  bool terminal = false;           // standard error is a terminal of 100 columns
  std::string output;              // standard output goes to this file
};

struct ProcessResult {
  int code = -1;  // exit code; 1000 + signal if it was killed by one
  std::string out, err;
};

// CVXQ_BINARY with `arguments`.
inline ProcessResult Cvxq(const std::vector<std::string>& arguments,
                          const ProcessOptions& options = {}) {
  int out[2], err[2];
  if (pipe(out) != 0) return {};
  winsize size = {.ws_row = 24, .ws_col = 100, .ws_xpixel = 0, .ws_ypixel = 0};
  const int made =
      options.terminal ? openpty(&err[0], &err[1], nullptr, nullptr, &size) : pipe(err);
  if (made != 0) return {};
  std::vector<std::string> words = {CVXQ_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_RDONLY);
    const int file = options.output.empty() ? out[1] : open(options.output.c_str(), O_WRONLY);
    dup2(null, STDIN_FILENO);
    dup2(file, STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    for (const int fd : {out[0], out[1], err[0], err[1]}) close(fd);
    if (options.file_size_limit >= 0) {
      const rlim_t bytes = static_cast<rlim_t>(options.file_size_limit);
      const rlimit limit = {bytes, bytes};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(out[1]);
  close(err[1]);
  ProcessResult result;
  std::array<pollfd, 2> fds = {pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  bool signalled = options.signal_at_first_stderr == 0;
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    poll(fds.data(), fds.size(), -1);
    for (size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].fd < 0 || fds[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t count = read(fds[i].fd, buffer, sizeof(buffer));
      if (count <= 0) {  // the end; of a terminal an error
        close(fds[i].fd);
        fds[i].fd = -1;
        continue;
      }
      (i == 0 ? result.out : result.err).append(buffer, static_cast<size_t>(count));
      if (i == 1 && !signalled && result.err.find(options.signal_after) != std::string::npos) {
        kill(child, options.signal_at_first_stderr);
        signalled = true;
      }
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  return result;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_CLI_PROCESS_H_
