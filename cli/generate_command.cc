#include <cstdio>

#include "cli/command.h"
#include "pipeline/generate.h"

namespace cvxq {
namespace {

class GenerateCommand : public Command {
 public:
  explicit GenerateCommand(CLI::App& app) {
    CLI::App* command = Declare(app, "generate", "Write text with a model, dense or packed",
                                "cvxq generate llama-3bit -p \"In the beginning\" -n 64");
    command->add_option("MODEL", options_.model, "Model: folder, s3://BUCKET/PREFIX or a .gguf file")->required();
    command->add_option("-p,--prompt", options_.prompt, "Text to continue")->required();
    command->add_option("-n,--tokens", options_.tokens, "At most so many new tokens")
        ->capture_default_str();
    command->add_option("--temperature", options_.temperature, "0: always the likeliest token")
        ->capture_default_str();
    command->add_option("--top-p", options_.top_p, "Sample from the likeliest tokens of this share")
        ->capture_default_str();
    command->add_option("--seed", options_.seed, "Seed of sampling")
        ->capture_default_str()
        ->check(NotNegative());
    command->add_flag("--bf16", options_.bf16, "Products in BF16: faster where the CPU has it");
    AddBackend(command, options_.backend);
    AddThreads(command, options_.threads);
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(options_.model, StorageAddress(options_.model));
    bool started = false;  // the prompt is shown with the first new text: not before an error
    const auto print = [&](std::string_view piece) {
      if (common.json) return;
      if (!started) std::fputs(options_.prompt.c_str(), stdout);
      started = true;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    const StatusOr<GenerateReport> report = Generate(options_, print);
    if (report.ok() || started) print("\n");
    CVXQ_RETURN_IF_ERROR(report.status());
    if (common.json) PrintJson(report->ToJson());
    if (common.verbose) {
      std::fprintf(stderr, "%ld tokens, %.1f a second\n", static_cast<long>(report->tokens),
                   report->tokens_per_second);
    }
    return absl::OkStatus();
  }

 private:
  GenerateOptions options_;
};

}  // namespace

std::unique_ptr<Command> MakeGenerateCommand(CLI::App& app) {
  return std::make_unique<GenerateCommand>(app);
}

}  // namespace cvxq
