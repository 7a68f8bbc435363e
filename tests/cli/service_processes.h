// A coordinator and workers as processes, which end with this.
#ifndef CVXQ_TESTS_CLI_SERVICE_PROCESSES_H_
#define CVXQ_TESTS_CLI_SERVICE_PROCESSES_H_

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/background_process.h"
#include "tests/cli/process.h"

namespace cvxq {

class ServiceProcesses {
 public:
  // What they say goes to the end of `log`. Starts the coordinator, with these arguments besides.
  ServiceProcesses(const std::string& store, const std::string& allow, const std::string& log,
                   const std::vector<std::string>& more = {})
      : log_(log) {
    std::vector<std::string> arguments = {
        "coordinator", "--json", "--listen", "127.0.0.1:0", "--listen-workers", "127.0.0.1:0",
        "--settle",    "0",      "--store",  store,         "--allow",          allow};
    arguments.insert(arguments.end(), more.begin(), more.end());
    processes_.push_back(std::make_unique<BackgroundProcess>(arguments, log_));
    const auto addresses =
        nlohmann::json::parse(processes_[0]->ReadUntil("}"), nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(addresses.is_object()) << Log();
    if (!addresses.is_object()) return;
    clients_ = addresses.value("address", "");
    workers_ = addresses.value("workers", "");
  }

  // Waits until it is registered.
  void StartWorker(const std::vector<std::string>& more = {}) {
    const size_t before = Count("a worker has come");
    std::vector<std::string> arguments = {
        "worker", "--coordinator", workers_, "--threads", "1",
    };
    arguments.insert(arguments.end(), more.begin(), more.end());
    processes_.push_back(std::make_unique<BackgroundProcess>(arguments, log_));
    for (int i = 0; i < 3000 && Count("a worker has come") == before; ++i) usleep(10'000);
    EXPECT_GT(Count("a worker has come"), before) << Log();
  }

  const std::string& clients() const { return clients_; }  // HOST:PORT for them
  std::string Log() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  // How often the log has this.
  size_t Count(const std::string& part) const {
    const std::string log = Log();
    size_t count = 0;
    for (size_t at = 0; (at = log.find(part, at)) != std::string::npos; at += part.size()) ++count;
    return count;
  }

  // A client's command, with --json; gives what it prints.
  nlohmann::json Run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--json", "--server", clients_});
    const ProcessResult result = Cvxq(arguments);
    auto document = nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    if (document.is_object()) return document;
    return {{"code", result.code}, {"err", result.err}};
  }

 private:
  const std::string log_;
  std::string clients_, workers_;
  std::vector<std::unique_ptr<BackgroundProcess>> processes_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_CLI_SERVICE_PROCESSES_H_
