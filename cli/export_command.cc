#include <cstdio>
#include <map>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/size.h"
#include "cli/command.h"
#include "pipeline/export.h"

namespace cvxq {
namespace {

class ExportCommand : public Command {
 public:
  explicit ExportCommand(CLI::App& app) {
    CLI::App* command =
        Declare(app, "export", "Write a model that other engines load, at an exact size",
                "cvxq export models/llama --format gguf --size 4.2GB -o llama-gguf");
    AddSource(command, options_.model, options_.output);
    AddChoice<ExportFormatKind>(command, "--format", options_.format,
                                {{"gguf", ExportFormatKind::kGguf},
                                 {"compressed-tensors", ExportFormatKind::kCompressedTensors},
                                 {"gptq", ExportFormatKind::kGptq},
                                 {"awq", ExportFormatKind::kAwq}},
                                "gguf (llama.cpp), compressed-tensors (vLLM), gptq, awq")
        ->required();
    command->add_option("--bits", options_.bits,
                        "Bits a weight of the matrices that have a choice, scales included");
    command->add_option("--size", size_, "Bytes of all files: 700MB, 1.5GiB");
    command->add_option("--uniform", options_.uniform,
                        "One type wherever it can be, such as q4_k or int4, for comparison");
    command->add_flag("--nearest", options_.nearest,
                      "With --uniform: codes nearest to the weights, without calibration");
    command->add_option("--menu", menu_, "Types to choose from, joined by commas (default: all)");
    command
        ->add_option("--engine", options_.format_options.engine,
                     "Keep to what this engine's kernels take: vllm")
        ->check(CLI::IsMember({"vllm"}));
    command
        ->add_option("--group", options_.format_options.group,
                     "Columns that share a scale, where the format leaves it open")
        ->capture_default_str();
    command->add_option("--split", split_, "Largest file (default: one file)");
    command->add_flag("--overwrite", options_.overwrite, "Replace an existing output folder");
    command->add_option("--calib", options_.calibration.inputs,
                        "PATH[:WEIGHT] of calibration text: file, folder, pattern, .jsonl, .npy, "
                        ".safetensors; repeatable (default: the bundled text)");
    command->add_option("--calib-field", options_.calibration.field, "Field of JSON lines")
        ->capture_default_str();
    command->add_option("--samples", options_.calibration.samples, "Calibration sequences")
        ->capture_default_str();
    command
        ->add_option("--check-samples", options_.check_samples,
                     "Further sequences to measure the result on, against the original and against "
                     "one type everywhere; 0: do not measure")
        ->capture_default_str()
        ->check(NotNegative());
    command->add_option("--seq-len", options_.calibration.seq_len, "Tokens of a sequence")
        ->capture_default_str();
    command->add_option("--seed", options_.calibration.seed, "Seed of all random choices")
        ->capture_default_str()
        ->check(NotNegative());
    AddBackend(command, options_.backend);
    AddThreads(command, options_.threads);
    command->add_option("--memory", memory_,
                        "Bytes to use beyond one block; more is spilled to disk");
  }

  Status Run() override {
    if (size_) {
      CVXQ_ASSIGN_OR_RETURN(options_.size, ParseByteSize(*size_));
    }
    if (memory_) {
      CVXQ_ASSIGN_OR_RETURN(options_.memory, ParseByteSize(*memory_));
    }
    if (split_) {
      CVXQ_ASSIGN_OR_RETURN(options_.format_options.split_bytes, ParseByteSize(*split_));
    }
    if (menu_) {
      options_.format_options.menu = absl::StrSplit(*menu_, ',', absl::SkipWhitespace());
    }
    CVXQ_ASSIGN_OR_RETURN(options_.model, StorageAddress(options_.model));
    CVXQ_ASSIGN_OR_RETURN(options_.output, StorageAddress(options_.output));
    Progress progress(progress_mode());
    CVXQ_ASSIGN_OR_RETURN(const ExportReport report, Export(options_, progress));
    if (common.json) {
      PrintJson(report.ToJson());
    } else if (!common.quiet) {
      Print(report);
    }
    return absl::OkStatus();
  }

 private:
  void Print(const ExportReport& report) const {
    std::printf("%s\n  %s, %.4f bits a weight, %s\n", report.output.c_str(), report.format.c_str(),
                report.bits_per_weight, FormatBytes(report.file_bytes).c_str());
    std::map<std::string, int> count;
    for (const ExportReport::Matrix& matrix : report.matrices) ++count[matrix.type];
    std::string types;
    for (const auto& [type, matrices] : count) {
      absl::StrAppend(&types, types.empty() ? "" : ", ", matrices, " ", type);
    }
    std::printf("  matrices: %s\n", types.c_str());
    if (report.kl) {
      std::printf("  KL to the original %.4g nats a token on sequences kept for this\n",
                  *report.kl);
    }
    if (report.uniform_kl) {
      std::printf("  %s everywhere: %s, KL %.4g%s\n", report.uniform.c_str(),
                  FormatBytes(*report.uniform_bytes).c_str(),
                  report.fell_back ? *report.kl : *report.uniform_kl,
                  report.fell_back ? "; it was better, so it is what was written" : "");
    }
    std::printf("  report: %s/%s\n", report.output.c_str(), kExportReportName);
    if (!common.verbose) return;
    for (const auto& [phase, seconds] : report.seconds) {
      std::printf("  %-16s %8.2f s\n", phase.c_str(), seconds);
    }
    for (const ExportReport::Matrix& matrix : report.matrices) {
      std::printf("  %-44s %-8s distortion %.3e\n", matrix.name.c_str(), matrix.type.c_str(),
                  matrix.measured_distortion);
    }
  }

  ExportOptions options_;
  std::optional<std::string> size_, memory_, split_, menu_;
};

}  // namespace

std::unique_ptr<Command> MakeExportCommand(CLI::App& app) {
  return std::make_unique<ExportCommand>(app);
}

}  // namespace cvxq
