// The program under test in the background: a coordinator that other commands talk to.
#ifndef CVXQ_TESTS_CLI_BACKGROUND_PROCESS_H_
#define CVXQ_TESTS_CLI_BACKGROUND_PROCESS_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

namespace cvxq {

class BackgroundProcess {
 public:
  // CVXQ_BINARY with `arguments`; what it says on standard error goes to the end of `log`.
  BackgroundProcess(std::vector<std::string> arguments, const std::string& log) {
    arguments.insert(arguments.begin(), CVXQ_BINARY);
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    argv.push_back(nullptr);
    int out[2];
    if (pipe(out) != 0) return;
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), STDERR_FILENO);
      close(out[0]);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(out[1]);
    out_ = out[0];
  }
  ~BackgroundProcess() {
    Stop(SIGKILL);
    close(out_);
  }
  BackgroundProcess(const BackgroundProcess&) = delete;
  BackgroundProcess& operator=(const BackgroundProcess&) = delete;

  // Standard output up to and with the first line that ends with `end`, or all if none does.
  std::string ReadUntil(const std::string& end) {
    std::string text;
    for (char c; !text.ends_with(end + "\n") && read(out_, &c, 1) == 1;) text += c;
    return text;
  }
  // Sends the signal (0: none) and waits; the exit code, 1000 + signal if it died of one, -1 if it
  // has been stopped before.
  int Stop(int signal) {
    if (child_ <= 0) return -1;
    kill(child_, signal);
    int status = 0;
    waitpid(std::exchange(child_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  pid_t child_ = -1;
  int out_ = -1;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_CLI_BACKGROUND_PROCESS_H_
