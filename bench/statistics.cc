// The claim: the statistics pass (forward, backward, squared gradients summed by group) is 1.5
// times as fast as the same work written well in PyTorch, in FP32 on the same threads.
//
//   bench_statistics [--model FOLDER] [--text FILE] [--threads N] [--samples N] [--seq-len T]
//                    [--runs N]
//
// Prints the seconds of the fastest run. bench/statistics_pytorch.py does the same work in PyTorch,
// runs this program in turns with it, and prints the ratio.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/thread_pool.h"
#include "pipeline/gradients.h"
#include "pipeline/model_files.h"

namespace cvxq {
namespace {

constexpr int64_t kClusterRows = 64;

struct Options {
  std::string model = "examples/models/kjv-llama-1m", text;
  int64_t threads = AvailableProcessors(), samples = 32, seq_len = 256, runs = 3;
};

// Clusters of rows that are neighbours in no order: what PlanGroups makes of a real model.
ModelLayouts ScatteredLayouts(const ArchSpec& spec) {
  ModelLayouts layouts(spec.layers);
  for (auto& block : layouts) {
    for (const LinearId id : spec.linears()) {
      const int64_t M = spec.rows(id);
      std::vector<float> keys(M);
      for (int64_t m = 0; m < M; ++m) keys[m] = static_cast<float>(m * 7919 % M);
      block[static_cast<int>(id)] =
          MakeGroupLayout(M, spec.columns(id), Partition::kColumns, kClusterRows, keys);
    }
  }
  return layouts;
}

Status Run(const Options& options) {
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(options.model));
  CVXQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(files.checkpoint->files()));
  CalibrationOptions calibration_options{.samples = options.samples, .seq_len = options.seq_len};
  if (!options.text.empty()) calibration_options.inputs = {options.text};
  CVXQ_ASSIGN_OR_RETURN(const CalibrationSet calibration,
                        LoadCalibrationSet(calibration_options, *tokenizer, files.spec.vocabulary));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(static_cast<int>(options.threads));
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                        Model::Load(files.spec, *files.weights, {}, *backend));
  const ModelLayouts layouts = ScatteredLayouts(files.spec);
  Progress progress(ProgressMode::kQuiet);
  double least = 1e30;
  for (int64_t run = 0; run < options.runs; ++run) {
    auto phase = progress.Start("statistics", options.samples, "sequences");
    const auto begin = std::chrono::steady_clock::now();
    CVXQ_RETURN_IF_ERROR(CollectGradients(*model, calibration, {.samples = options.samples},
                                          {.layouts = &layouts}, phase)
                             .status());
    const auto end = std::chrono::steady_clock::now();
    least = std::min(least, std::chrono::duration<double>(end - begin).count());
  }
  std::printf("%.4f\n", least);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  bool understood = argc % 2 == 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int64_t number = std::atoll(argv[i + 1]);
    if (flag == "--model") {
      options.model = argv[i + 1];
    } else if (flag == "--text") {
      options.text = argv[i + 1];
    } else if (flag == "--threads" && number > 0) {
      options.threads = number;
    } else if (flag == "--samples" && number > 0) {
      options.samples = number;
    } else if (flag == "--seq-len" && number > 1) {
      options.seq_len = number;
    } else if (flag == "--runs" && number > 0) {
      options.runs = number;
    } else {
      understood = false;
    }
  }
  if (!understood) {
    std::fprintf(stderr,
                 "usage: bench_statistics [--model FOLDER] [--text FILE] [--threads N] "
                 "[--samples N] [--seq-len T] [--runs N]\n");
    return 2;
  }
  const Status status = Run(options);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) { return cvxq::Main(argc, argv); }
