// cvxq: one binary with subcommands. Each command's file declares its flags and calls the pipeline.
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "base/interrupt.h"
#include "cli/command.h"

namespace cvxq {
namespace {

// File names and what libraries say may hold line ends; an error is one line.
void PrintError(std::string line) {
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  std::fprintf(stderr, "cvxq: %s\n", line.c_str());
}

// What is wrong with the command line, and where to read on.
std::string UsageError(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (!chosen.empty()) {
    return absl::StrCat(error.what(), "; see cvxq ", chosen.front()->get_name(), " --help");
  }
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", command->get_name());
  }
  if (argc < 2) return absl::StrCat("name a command (", names, "); see cvxq --help");
  return absl::StrCat("\"", argv[1], "\" is none of the commands (", names, "); see cvxq --help");
}

// The result may still be in a buffer: a full disk or a reader that left shows only now.
Status FlushOutput() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("cannot write the result to standard output: ", std::strerror(errno)));
}

Status Run(Command& command) {
  try {
    CVXQ_RETURN_IF_ERROR(command.Run());
    return FlushOutput();
  } catch (const std::bad_alloc&) {
    return absl::InternalError(
        "not enough memory; try a smaller --seq-len, fewer --samples or a smaller --memory");
  } catch (const std::exception& error) {  // of the standard library, on files that go away
    return absl::InternalError(error.what());
  }
}

int Main(int argc, char** argv) {
  CLI::App app{
      "cvxq compresses large language models to any size with the least damage that size allows.",
      "cvxq"};
  app.set_version_flag("--version", "cvxq " CVXQ_VERSION);
  app.require_subcommand(1);
  app.footer("Each command has its own help with an example: cvxq quantize --help");
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeQuantizeCommand(app));
  commands.push_back(MakeEvalCommand(app));
  commands.push_back(MakeGenerateCommand(app));
  commands.push_back(MakeInspectCommand(app));
  commands.push_back(MakeExportCommand(app));
  commands.push_back(MakeCoordinatorCommand(app));
  commands.push_back(MakeWorkerCommand(app));
  commands.push_back(MakeSubmitCommand(app));
  commands.push_back(MakeJobsCommand(app));
  commands.push_back(MakeWatchCommand(app));
  commands.push_back(MakeCancelCommand(app));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    PrintError(UsageError(app, error, argc, argv));
    return ExitCode(absl::InvalidArgumentError("usage"));
  }

  InstallInterruptHandler();
  signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk, not death
  Status status;
  for (size_t i = 0; i < commands.size(); ++i) {
    if (app.get_subcommand(static_cast<int>(i))->parsed()) status = Run(*commands[i]);
  }
  if (!status.ok()) PrintError(std::string(status.message()));
  return ExitCode(status);
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) { return cvxq::Main(argc, argv); }
