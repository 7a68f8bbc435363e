// What the subcommands share: common flags, output, exit codes.
#ifndef CVXQ_CLI_COMMAND_H_
#define CVXQ_CLI_COMMAND_H_

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// Flags of every command.
struct CommonFlags {
  bool json = false, quiet = false, verbose = false;
};

// A subcommand: declares its flags, and runs. What Run returns becomes the exit code.
class Command {
 public:
  virtual ~Command() = default;
  virtual Status Run() = 0;

  CommonFlags common;

 protected:
  // Adds --json, --quiet, --verbose and an example below the help.
  CLI::App* Declare(CLI::App& app, const std::string& name, const std::string& description,
                    const std::string& example);
  // Adds --threads.
  static void AddThreads(CLI::App* command, int& threads);
  // Adds --backend.
  static void AddBackend(CLI::App* command, BackendKind& backend);
  // Adds MODEL and -o, of a command that makes a model from a checkpoint.
  static void AddSource(CLI::App* command, std::string& model, std::string& output);
  // A flag that takes one of a few names; Target is T or std::optional<T>.
  template <typename T, typename Target>
  static CLI::Option* AddChoice(CLI::App* command, const std::string& flag, Target& target,
                                const std::map<std::string, T>& names,
                                const std::string& description) {
    std::vector<std::string> allowed;
    for (const auto& [name, value] : names) allowed.push_back(name);
    return command
        ->add_option_function<std::string>(
            flag, [&target, names](const std::string& name) { target = names.at(name); },
            description)
        ->check(CLI::IsMember(allowed));
  }
  // Progress on standard error as the flags ask.
  ProgressMode progress_mode() const { return ChooseProgressMode(common.quiet); }
};

// Registers each command under `app`; the result lives as long as the app is used.
std::unique_ptr<Command> MakeQuantizeCommand(CLI::App& app);
std::unique_ptr<Command> MakeEvalCommand(CLI::App& app);
std::unique_ptr<Command> MakeGenerateCommand(CLI::App& app);
std::unique_ptr<Command> MakeExportCommand(CLI::App& app);
std::unique_ptr<Command> MakeInspectCommand(CLI::App& app);
std::unique_ptr<Command> MakeCoordinatorCommand(CLI::App& app);
std::unique_ptr<Command> MakeWorkerCommand(CLI::App& app);
std::unique_ptr<Command> MakeSubmitCommand(CLI::App& app);
std::unique_ptr<Command> MakeJobsCommand(CLI::App& app);
std::unique_ptr<Command> MakeWatchCommand(CLI::App& app);
std::unique_ptr<Command> MakeCancelCommand(CLI::App& app);

// A number that is not negative; CLI11 itself reads -1 as 2^64 - 1 where no sign is expected.
CLI::Validator NotNegative();

// 0 done, 1 failed, 2 wrong usage, 3 refused by a limit of the service, 130 interrupted.
int ExitCode(const Status& status);

// An address given as MODEL or OUT: a path, from file:// too, or one of s3://.
StatusOr<std::string> StorageAddress(const std::string& address);

// "--json": the document on standard output and nothing else.
void PrintJson(const nlohmann::ordered_json& json);

}  // namespace cvxq

#endif  // CVXQ_CLI_COMMAND_H_
