#include <cstdio>

#include "cli/command.h"
#include "pipeline/inspect.h"

namespace cvxq {
namespace {

class InspectCommand : public Command {
 public:
  explicit InspectCommand(CLI::App& app) {
    CLI::App* command =
        Declare(app, "inspect", "Show what a model holds and how its bits are spent",
                "cvxq inspect llama-3bit");
    command->add_option("MODEL", model_, "Model, dense or packed: folder, s3://BUCKET/PREFIX or a .gguf file")->required();
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(const std::string path, StorageAddress(model_));
    CVXQ_ASSIGN_OR_RETURN(const InspectReport report, Inspect(path));
    if (common.json) {
      PrintJson(report.ToJson());
    } else {
      std::fputs(report.ToText().c_str(), stdout);
    }
    return absl::OkStatus();
  }

 private:
  std::string model_;
};

}  // namespace

std::unique_ptr<Command> MakeInspectCommand(CLI::App& app) {
  return std::make_unique<InspectCommand>(app);
}

}  // namespace cvxq
