// A real `cvxq coordinator` in a process of its own, which can be killed and started again at the
// same address.
#ifndef CVXQ_TESTS_SERVICE_COORDINATOR_PROCESS_H_
#define CVXQ_TESTS_SERVICE_COORDINATOR_PROCESS_H_

#include <signal.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cli/background_process.h"

namespace cvxq {

// All calls from one thread that lives as long: the process ends with the thread that started it.
class CoordinatorProcess {
 public:
  // On the loopback; jobs may use `folder`, which also gets its log ("log"). Throws
  // std::runtime_error where it does not start.
  CoordinatorProcess(std::string store, std::string folder, std::vector<std::string> more = {})
      : store_(std::move(store)), folder_(std::move(folder)), more_(std::move(more)) {
    Start();
  }

  void Kill() { process_->Stop(SIGKILL); }
  // Returns when it answers.
  void Start() {
    std::vector<std::string> arguments = {
        "coordinator", "--json", "--listen", absl::StrCat("127.0.0.1:", port_),
        "--store",     store_,   "--allow",  folder_,
        "--rate",      "0"};
    arguments.insert(arguments.end(), more_.begin(), more_.end());
    process_ = std::make_unique<BackgroundProcess>(arguments, folder_ + "/log");
    const auto told = nlohmann::json::parse(process_->ReadUntil("}"), nullptr, false);
    if (!told.is_object()) throw std::runtime_error("no coordinator; see " + folder_ + "/log");
    const std::string address = told["address"];
    port_ = std::stoi(address.substr(address.rfind(':') + 1));
  }
  // Waits for it to end by itself; its exit code.
  int Wait() { return process_->Stop(0); }

  int port() const { return port_; }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  const std::string& folder() const { return folder_; }

 private:
  const std::string store_, folder_;
  const std::vector<std::string> more_;
  std::unique_ptr<BackgroundProcess> process_;
  int port_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_COORDINATOR_PROCESS_H_
