#include <cstdio>

#include "cli/command.h"
#include "pipeline/evaluate.h"

namespace cvxq {
namespace {

class EvalCommand : public Command {
 public:
  explicit EvalCommand(CLI::App& app) {
    CLI::App* command =
        Declare(app, "eval", "Measure perplexity, and KL divergence from a reference model",
                "cvxq eval llama-3bit --reference models/llama --text test.txt --seq-len 2048");
    command->add_option("MODEL", options_.model, "Model, dense or packed: folder, s3://BUCKET/PREFIX or a .gguf file")->required();
    command->add_option("--text", options_.texts, "Held-out text; repeatable")->required();
    command->add_option("--reference", options_.reference, "The original model, for KL divergence");
    command->add_option("--seq-len", options_.seq_len, "Tokens of a block")->capture_default_str();
    command
        ->add_option("--max-sequences", options_.max_sequences,
                     "At most so many blocks of each text (0: all)")
        ->check(NotNegative());
    command->add_flag("--bf16", options_.bf16, "Products in BF16: faster where the CPU has it");
    AddBackend(command, options_.backend);
    AddThreads(command, options_.threads);
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(options_.model, StorageAddress(options_.model));
    if (options_.reference) {
      CVXQ_ASSIGN_OR_RETURN(options_.reference, StorageAddress(*options_.reference));
    }
    Progress progress(progress_mode());
    CVXQ_ASSIGN_OR_RETURN(const EvaluateReport report, Evaluate(options_, progress));
    if (common.json) {
      PrintJson(report.ToJson());
      return absl::OkStatus();
    }
    for (const TextResult& text : report.texts) {
      std::printf("%-40s %8ld tokens   perplexity %.4f\n", text.path.c_str(),
                  static_cast<long>(text.tokens), text.perplexity);
    }
    if (report.texts.size() > 1) std::printf("perplexity %.4f over all\n", report.perplexity);
    if (report.reference) {
      std::printf(
          "reference perplexity %.4f\nKL divergence %.6f nats a token (99 %%: %.5f)\n"
          "same likeliest token %.2f %%\n",
          report.reference_perplexity, report.kl_mean, report.kl_p99, 100 * report.top1_agreement);
    }
    return absl::OkStatus();
  }

 private:
  EvaluateOptions options_;
};

}  // namespace

std::unique_ptr<Command> MakeEvalCommand(CLI::App& app) {
  return std::make_unique<EvalCommand>(app);
}

}  // namespace cvxq
