#include <signal.h>

#include <cstdio>
#include <filesystem>
#include <map>

#include "absl/strings/str_format.h"
#include "base/size.h"
#include "cli/command.h"
#include "pipeline/job_state.h"
#include "pipeline/quantize.h"

namespace cvxq {
namespace {

class QuantizeCommand : public Command {
 public:
  explicit QuantizeCommand(CLI::App& app) {
    CLI::App* command =
        Declare(app, "quantize", "Compress a checkpoint to a size or a number of bits a weight",
                "cvxq quantize models/llama --bits 3 -o llama-3bit");
    AddSource(command, options_.model, options_.output);
    command->add_option("--bits", options_.bits, "Bits a quantised weight, all bytes counted");
    command->add_option("--size", size_, "Bytes of the whole output: 700MB, 1.5GiB");
    command->add_flag("--nominal", options_.nominal, "--bits counts codes only, as papers do");
    command->add_flag("--overwrite", options_.overwrite, "Replace an existing output folder");
    AddChoice<CodecKind>(command, "--codec", options_.codec,
                         {{"companded", CodecKind::kCompanded},
                          {"lloyd", CodecKind::kLloyd},
                          {"entropy", CodecKind::kEntropy},
                          {"rtn", CodecKind::kRtn},
                          {"gptq", CodecKind::kGptq},
                          {"awq", CodecKind::kAwq},
                          {"owq", CodecKind::kOwq}},
                         "How weights are coded (default entropy)");
    AddChoice<Objective>(
        command, "--objective", options_.objective,
        {{"fisher", Objective::kFisher}, {"hidden", Objective::kHidden}},
        "What is kept: the output distribution (fisher) or the final hidden states (hidden)");
    AddChoice<Estimator>(command, "--estimator", options_.estimator,
                         {{"labels", Estimator::kLabels},
                          {"signs", Estimator::kSigns},
                          {"tokens", Estimator::kTokens}},
                         "How gradients are sampled (default labels for fisher, signs for hidden)");
    command
        ->add_option("--stride", options_.stride,
                     "Tokens between those that --estimator tokens takes")
        ->check(NotNegative());
    command->add_option("--calib", options_.calibration.inputs,
                        "PATH[:WEIGHT] of calibration text: file, folder, pattern, .jsonl, .npy, "
                        ".safetensors; repeatable (default: the bundled text)");
    command->add_option("--calib-field", options_.calibration.field, "Field of JSON lines")
        ->capture_default_str();
    command->add_option("--samples", options_.calibration.samples, "Calibration sequences")
        ->capture_default_str();
    command->add_option("--grad-samples", options_.grad_samples,
                        "Of them, for gradients (default all with --feedback two, else 32)");
    command->add_option("--seq-len", options_.calibration.seq_len, "Tokens of a sequence")
        ->capture_default_str();
    command->add_option("--seed", options_.calibration.seed, "Seed of all random choices")
        ->capture_default_str()
        ->check(NotNegative());
    command
        ->add_option("--iterations", options_.iterations,
                     "Rounds of gradients, allocation and coding, as the papers do")
        ->capture_default_str();
    AddChoice<Partition>(
        command, "--partition", options_.partition,
        {{"columns", Partition::kColumns}, {"rows", Partition::kRows}},
        "Groups are one column of a cluster of rows, or one row of a cluster of columns");
    command->add_option("--group-rows", options_.group_rows, "Size of a cluster (default 64)");
    command
        ->add_option("--group", options_.group,
                     "Columns that share a scale (codecs rtn, gptq, awq, owq)")
        ->capture_default_str();
    AddChoice<Feedback>(
        command, "--feedback", options_.feedback,
        {{"none", Feedback::kNone}, {"one", Feedback::kOne}, {"two", Feedback::kTwo}},
        "Error feedback: over columns (one), over rows too (two; default of entropy and lloyd)");
    command
        ->add_option("--shrinkage", options_.shrinkage,
                     "Of output curvature towards its mean, 0 to 1 (entropy, and --feedback two)")
        ->capture_default_str();
    command
        ->add_option("--tune", options_.tune,
                     "Epochs of fitting norms and biases to the coded matrices")
        ->capture_default_str()
        ->check(NotNegative());
    AddChoice<ComputeKind>(
        command, "--compute", options_.compute,
        {{"auto", ComputeKind::kAuto}, {"fp32", ComputeKind::kF32}, {"bf16", ComputeKind::kBF16}},
        "Arithmetic of the statistics");
    AddBackend(command, options_.backend);
    AddThreads(command, options_.threads);
    command
        ->add_option("--workers", options_.workers,
                     "Stages of the model that work at the same time, each with its share of "
                     "threads and memory; the result is the same")
        ->capture_default_str();
    command
        ->add_option("--replicas", options_.replicas,
                     "Of --workers / N stages, each for a share of the samples (0: as it pays)")
        ->capture_default_str();
    command
        ->add_option("--save-every", options_.save_seconds,
                     "Seconds between writes of what is done to OUT.resume, from "
                     "where the same command goes on after a crash or Ctrl-C; 0: at each step")
        ->capture_default_str()
        ->check(NotNegative());
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
    CVXQ_ASSIGN_OR_RETURN(options_.model, StorageAddress(options_.model));
    CVXQ_ASSIGN_OR_RETURN(options_.output, StorageAddress(options_.output));
    signal(SIGPIPE, SIG_IGN);  // whoever stops reading the progress does not stop the work
    options_.state = StateAddress(options_.output);
    Progress progress(progress_mode());
    const StatusOr<QuantizeReport> made = Quantize(options_, progress);
    if (absl::IsAlreadyExists(made.status())) {
      // Of a run that ended after its output was there.
      RemoveJobStates(options_.state).IgnoreError();
    } else if (!made.ok()) {
      if (!common.quiet && std::filesystem::exists(options_.state)) {
        std::fprintf(stderr, "what is done is kept in %s: the same command goes on from there\n",
                     options_.state.c_str());
      }
    }
    CVXQ_RETURN_IF_ERROR(made.status());
    const QuantizeReport& report = *made;
    if (common.json) {
      PrintJson(report.ToJson());
    } else if (!common.quiet) {
      Print(report);
    }
    return absl::OkStatus();
  }

 private:
  void Print(const QuantizeReport& report) const {
    std::printf("%s\n  %.4f bits a weight (%.4f codes), %s on disk, %.3f bits a parameter\n",
                report.output.c_str(), report.bits_per_weight, report.nominal_bits_per_weight,
                FormatBytes(report.file_bytes).c_str(), report.file_bits);
    std::printf("  %.1f %% of weights pruned, %s, peak memory %s\n", 100 * report.zero_fraction,
                FormatDuration(report.seconds.back().second).c_str(),
                FormatBytes(report.peak_memory_bytes).c_str());
    if (!common.verbose) return;
    for (const auto& [phase, seconds] : report.seconds) {
      std::printf("  %-16s %8.2f s\n", phase.c_str(), seconds);
    }
    for (const LayerReport& layer : report.layers) {
      std::printf("  %-44s %7.4f bits  predicted distortion %.3e\n", layer.name.c_str(),
                  layer.bits_per_weight, layer.predicted_distortion);
    }
  }

  QuantizeOptions options_;
  std::optional<std::string> size_, memory_;
};

}  // namespace

std::unique_ptr<Command> MakeQuantizeCommand(CLI::App& app) {
  return std::make_unique<QuantizeCommand>(app);
}

}  // namespace cvxq
