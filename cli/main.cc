// cvxq: one binary with subcommands. Each command's file declares its flags and calls the pipeline.
#include <cstdio>
#include <memory>
#include <vector>

#include "base/interrupt.h"
#include "cli/command.h"

int main(int argc, char** argv) {
  CLI::App app{
      "cvxq compresses large language models to any size with the least damage that size allows.",
      "cvxq"};
  app.set_version_flag("--version", "cvxq " CVXQ_VERSION);
  app.require_subcommand(1);
  std::vector<std::unique_ptr<cvxq::Command>> commands;
  commands.push_back(cvxq::MakeQuantizeCommand(app));
  commands.push_back(cvxq::MakeEvalCommand(app));
  commands.push_back(cvxq::MakeGenerateCommand(app));
  commands.push_back(cvxq::MakeInspectCommand(app));

  cvxq::InstallInterruptHandler();
  cvxq::Status status;
  for (size_t i = 0; i < commands.size(); ++i) {
    cvxq::Command* command = commands[i].get();
    app.get_subcommand(static_cast<int>(i))->callback([command, &status] {
      status = command->Run();
    });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const bool asked = error.get_exit_code() == 0;  // --help, --version
    app.exit(error);
    return asked ? 0 : 2;
  }
  if (!status.ok()) {
    std::fprintf(stderr, "cvxq: %s\n", std::string(status.message()).c_str());
  }
  return cvxq::ExitCode(status);
}
