// How a job scales, by a simulation of its timeline (scaling/staged_job.h).
//
//   bench_scaling check RUNS.json       against runs of bench/scaling.py
//   bench_scaling predict [FLAGS]       Llama-3.1-405B on 8 to 512 GPUs
//   bench_scaling link                  seconds that a wave takes between two workers on loopback
//
// `check` takes the costs of all tasks from the run with one worker, what the cores give together
// from the run of two copies, and the time of a transfer from `link`. `predict` has no measurement
// to start from: see scaling/gpu_costs.h for what it assumes.
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/stopwatch.h"
#include "bench/scaling/gpu_costs.h"
#include "bench/scaling/staged_job.h"
#include "nlohmann/json.hpp"
#include "pipeline/replicas.h"
#include "pipeline/stage.h"
#include "service/workers/waves.h"

namespace cvxq {
namespace {

using nlohmann::json;

constexpr double kAsked = 0.15;  // the most that a prediction may be off

// Seconds of [tokens, D] from one worker's waves to another stage, the median of many.
StatusOr<double> TransferSeconds(int64_t values) {
  Waves waves("/tmp", int64_t{1} << 30), own("/tmp", int64_t{1} << 30);
  TransportService service(waves);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) return absl::UnavailableError("cannot listen on loopback");
  const std::atomic<bool> stop = false;
  RemoteBoundary from("job", 0, waves, stop, nullptr);
  RemoteBoundary to("job", 0, own, stop, grpc::InsecureChannelCredentials());
  to.SetNeighbour(absl::StrCat("127.0.0.1:", port));
  std::vector<float> wave(values, 1.5f);
  std::vector<double> seconds;
  for (int64_t i = 0; i < 15; ++i) {
    Stopwatch watch;
    CVXQ_RETURN_IF_ERROR(from.Send(StageBoundary::Stream::kForward, i, wave));
    CVXQ_RETURN_IF_ERROR(to.Receive(StageBoundary::Stream::kForward, i, wave));
    seconds.push_back(watch.Finish().back().second);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

double Sum(const json& step, const std::string& task) {
  double seconds = 0;
  for (const json& stage : step["stages"]) {
    if (stage.contains(task)) seconds += stage[task][1].get<double>();
  }
  return seconds;
}

// Of one task, over a run.
double Each(const json& run, const std::string& task) {
  double count = 0, seconds = 0;
  for (const json& step : run["steps"]) {
    for (const json& stage : step["stages"]) {
      if (!stage.contains(task)) continue;
      count += stage[task][0].get<double>();
      seconds += stage[task][1].get<double>();
    }
  }
  return count > 0 ? seconds / count : 0;
}

double Wall(const json& run, const std::string& kind) {
  double seconds = 0;
  for (const json& step : run["steps"]) {
    if (step["kind"] == kind) seconds += step["end"].get<double>() - step["begin"].get<double>();
  }
  return seconds;
}

// From a run of one worker.
StagedJob Measured(const json& run, int64_t blocks, int64_t waves, double transfer) {
  StagedJob job{.blocks = blocks, .waves = waves};
  job.costs = {.forward = Each(run, "forward"),
               .backward = Each(run, "backward"),
               .moments = Each(run, "moments"),
               .head = Each(run, "head"),
               .factor_outputs = Each(run, "factor_outputs"),
               .factor_inputs = Each(run, "factor_inputs"),
               .transfer = transfer,
               .fold_outputs = Each(run, "reduce"),
               .fold_inputs = Each(run, "reduce")};
  double work = 0;
  for (const json& step : run["steps"]) {
    if (step["kind"] != "order") continue;
    CodingOrder order{.blocks = step["blocks"].get<std::vector<int64_t>>()};
    order.seconds =
        (Sum(step, "foresee") + Sum(step, "code")) / static_cast<double>(order.blocks.size());
    job.orders.push_back(std::move(order));
  }
  for (const json& step : run["steps"]) {
    for (const auto& [task, value] : step["stages"][0].items()) {
      work += value[1].get<double>();
    }
  }
  // Whatever is in no task: the coordinator's part, above all before and after the steps.
  job.costs.around = run["seconds"].get<double>() - work;
  return job;
}

// Blocks of each stage, by what its first replica did. Runs from before there were replicas have
// one.
StageLayout LayoutOf(const json& run, int64_t waves) {
  StageLayout layout{.replicas = run.value("replicas", 1)};
  const json& stages = run["steps"][0]["stages"];
  const int64_t of_first = WavesOf(waves, PartsOf(waves, 0, layout.replicas)).size();
  for (size_t i = 0; i < stages.size(); i += static_cast<size_t>(layout.replicas)) {
    const int64_t begin = layout.stages.empty() ? 0 : layout.stages.back().end;
    layout.stages.push_back({begin, begin + stages[i]["forward"][0].get<int64_t>() / of_first});
  }
  return layout;
}

Status Check(const std::string& path) {
  const json data = json::parse(std::ifstream(path));
  const json& setup = data["setup"];
  const int64_t blocks = setup["layers"], D = setup["hidden"];
  const int64_t tokens = setup["samples"].get<int64_t>() * setup["seq_len"].get<int64_t>();
  const int64_t wave_tokens = 4096, waves = (tokens + wave_tokens - 1) / wave_tokens;
  const json *one = nullptr, *copies = nullptr;
  for (const json& run : data["runs"]) {
    if (run["workers"] == 1 && run["copies"] == 1) one = &run;
    if (run["workers"] == 1 && run["copies"] == 2) copies = &run;
  }
  if (one == nullptr || copies == nullptr) {
    return absl::FailedPreconditionError(
        "there must be a run of one worker and one of two copies; see bench/scaling.py");
  }
  CVXQ_ASSIGN_OR_RETURN(const double transfer, TransferSeconds(wave_tokens * D));
  const StagedJob job = Measured(*one, blocks, waves, transfer);
  const double efficiency = (*one)["seconds"].get<double>() / (*copies)["seconds"].get<double>();
  std::printf(
      "a block and a wave: forward %.4f s, backward %.4f, moments %.4f; a head %.4f;\n"
      "a block: factors %.3f and %.3f, coding %.3f; a transfer %.4f; a core beside a busy one "
      "%.3f\n"
      "workers      gradients            moments             orders              job\n"
      "           real   said          real   said         real   said        real   said\n",
      job.costs.forward, job.costs.backward, job.costs.moments, job.costs.head,
      job.costs.factor_outputs, job.costs.factor_inputs, job.orders.back().seconds, transfer,
      efficiency);
  double worst = 0;
  for (const json& run : data["runs"]) {
    if (run["copies"] != 1) continue;
    StageLayout layout = LayoutOf(run, waves);
    layout.together = true;
    layout.machine = {2, efficiency};
    CVXQ_ASSIGN_OR_RETURN(const Prediction said, Predict(job, layout));
    const double real = run["seconds"], off = said.total / real - 1;
    worst = std::max(worst, std::abs(off));
    std::printf("%4lld  %9.1f %9.1f    %9.1f %9.1f    %9.1f %9.1f    %9.1f %9.1f  %+5.1f %%\n",
                run["workers"].get<long long>(), Wall(run, "gradients"), said.gradients,
                Wall(run, "moments"), said.moments, Wall(run, "order"), said.orders, real,
                said.total, 100 * off);
  }
  std::printf("off by at most %.1f %%; asked: %.0f %%\n", 100 * worst, 100 * kAsked);
  return worst <= kAsked ? absl::OkStatus() : absl::OutOfRangeError("the simulation is off");
}

StatusOr<ArchSpec> Llama405B() {
  return ParseArchSpec({{"model_type", "llama"},
                        {"num_hidden_layers", 126},
                        {"hidden_size", 16384},
                        {"intermediate_size", 53248},
                        {"vocab_size", 128256},
                        {"num_attention_heads", 128},
                        {"num_key_value_heads", 8},
                        {"max_position_embeddings", 131072},
                        {"rms_norm_eps", 1e-5},
                        {"hidden_act", "silu"}},
                       "Llama-3.1-405B");
}

struct PredictFlags {
  GpuAssumptions gpu;
  GpuJob job;
  double back = 35;  // seconds until a lost stage begins anew
};

struct Found {
  StageLayout layout;
  StagedJob job;
  GpuMemory memory;  // of the largest stage, as if it came first
  Prediction prediction;
};

// kResourceExhausted where a stage does not fit on a GPU.
StatusOr<Found> Try(const ArchSpec& spec, const PredictFlags& flags, const JobLayout& layout,
                    bool inputs_kept) {
  Found found;
  found.layout = {.stages = CutStages(spec, layout.stages),
                  .replicas = layout.replicas,
                  .inputs_kept = inputs_kept};
  int64_t most = 0;
  for (const BlockRange& range : found.layout.stages) most = std::max(most, range.size());
  found.memory = MemoryOf(spec, flags.job, flags.gpu, most, layout.stages);
  if (!found.memory.fits) return absl::ResourceExhaustedError("a stage does not fit on a GPU");
  found.layout.blocks_at_once = found.memory.blocks_at_once;
  found.job = GpuStagedJob(spec, flags.job, flags.gpu, found.memory.streamed);
  CVXQ_ASSIGN_OR_RETURN(found.prediction, Predict(found.job, found.layout));
  return found;
}

// The quickest of all layouts that there could be.
StatusOr<Found> Best(const ArchSpec& spec, const PredictFlags& flags, int64_t gpus,
                     int64_t most_replicas, bool inputs_kept) {
  StatusOr<Found> best = absl::ResourceExhaustedError("no stage fits on a GPU");
  for (int64_t replicas = 1; replicas <= std::min(gpus, most_replicas); ++replicas) {
    const JobLayout layout = {std::min(gpus / replicas, spec.layers), replicas};
    StatusOr<Found> found = Try(spec, flags, layout, inputs_kept);
    if (!found.ok()) continue;
    if (!best.ok() || found->prediction.total < best->prediction.total) best = std::move(found);
  }
  return best;
}

// Minutes more where the stage in the middle is lost half-way and begins anew.
StatusOr<double> MinutesOfLoss(const Found& found, double seconds) {
  StageLayout layout = found.layout;
  layout.losses = {{.process = static_cast<int64_t>(layout.stages.size()) / 2 * layout.replicas,
                    .at = found.prediction.total / 2,
                    .seconds = seconds}};
  CVXQ_ASSIGN_OR_RETURN(const Prediction lost, Predict(found.job, layout));
  return (lost.total - found.prediction.total) / 60;
}

Status PredictAll(const PredictFlags& flags) {
  CVXQ_ASSIGN_OR_RETURN(const ArchSpec spec, Llama405B());
  const double ideal = WorkSeconds(GpuStagedJob(spec, flags.job, flags.gpu, false));
  std::printf(
      "Llama-3.1-405B, %lld sequences of %lld tokens; %.1f hours on one GPU that holds all.\n"
      "No GPU was measured: products at %.0f %% of %.0f (BF16) and %.0f (FP32) TFLOPS, "
      "%.0f GB,\nlinks of %.0f GB/s, %.2g weights a second searched.\n\n",
      static_cast<long long>(flags.job.sequences), static_cast<long long>(flags.job.tokens),
      ideal / 3600, 100 * flags.gpu.share, flags.gpu.bf16_flops / 1e12, flags.gpu.fp32_flops / 1e12,
      flags.gpu.memory / 1e9, flags.gpu.link_bytes / 1e9, flags.gpu.search_weights);
  std::printf(
      "| GPUs | stages x replicas | weights | gradients | moments | coding | minutes | efficiency "
      "| a loss |\n| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  struct Kind {
    const char* name;
    bool inputs_kept;
    std::function<JobLayout(int64_t gpus)> layout;  // none: the best
  };
  const int64_t waves = GpuStagedJob(spec, flags.job, flags.gpu, false).waves;
  const int64_t most = PartCount(waves);
  const std::vector<Kind> kinds = {
      {"one pipeline", false, [&](int64_t gpus) { return ChooseLayout(spec, gpus, waves, 1); }},
      {"as built", false, [&](int64_t gpus) { return ChooseLayout(spec, gpus, waves, most); }},
      {"best layout", false, nullptr},
      {"best layout, inputs kept", true, nullptr}};
  for (int64_t gpus = 8; gpus <= 512; gpus *= 2) {
    for (const Kind& kind : kinds) {
      CVXQ_ASSIGN_OR_RETURN(const Found found,
                            kind.layout ? Try(spec, flags, kind.layout(gpus), kind.inputs_kept)
                                        : Best(spec, flags, gpus, most, kind.inputs_kept));
      CVXQ_ASSIGN_OR_RETURN(const double loss, MinutesOfLoss(found, flags.back));
      const Prediction& p = found.prediction;
      std::printf("| %lld | %lld x %lld, %s | %s | %.1f | %.1f | %.1f | %.1f | %.0f %% | %.1f |\n",
                  static_cast<long long>(gpus), static_cast<long long>(found.layout.stages.size()),
                  static_cast<long long>(found.layout.replicas), kind.name,
                  found.memory.streamed ? "streamed" : "resident", p.gradients / 60, p.moments / 60,
                  p.orders / 60, p.total / 60, 100 * ideal / (static_cast<double>(gpus) * p.total),
                  loss);
    }
  }
  return absl::OkStatus();
}

Status Link() {
  for (const int64_t D : {1024, 4096, 16384}) {
    CVXQ_ASSIGN_OR_RETURN(const double seconds, TransferSeconds(4096 * D));
    std::printf("[4096, %lld] floats: %.4f s, %.2f GB/s\n", static_cast<long long>(D), seconds,
                4096.0 * static_cast<double>(D) * 4 / seconds / 1e9);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  CLI::App app{"How a job scales over stages, simulated"};
  app.require_subcommand(1);
  std::string runs;
  CLI::App* check = app.add_subcommand("check", "Against runs of bench/scaling.py");
  check->add_option("RUNS", runs)->required()->check(CLI::ExistingFile);
  CLI::App* link = app.add_subcommand("link", "What a wave takes between two workers on loopback");
  CLI::App* predict = app.add_subcommand("predict", "Llama-3.1-405B on 8 to 512 GPUs");
  cvxq::PredictFlags flags;
  const auto number = [predict](const char* name, auto& value, const char* help) {
    predict->add_option(name, value, help)->capture_default_str()->check(CLI::PositiveNumber);
  };
  number("--bf16-flops", flags.gpu.bf16_flops, "Peak of a GPU");
  number("--fp32-flops", flags.gpu.fp32_flops, "Peak of a GPU");
  number("--share", flags.gpu.share, "Of a peak that products reach");
  number("--link", flags.gpu.link_bytes, "Bytes a second between GPUs");
  number("--latency", flags.gpu.latency, "Seconds, of a wave");
  number("--host", flags.gpu.host_bytes, "Bytes a second from host memory");
  number("--memory", flags.gpu.memory, "Bytes of a GPU");
  number("--search", flags.gpu.search_weights, "Weights a second that the trellis search rounds");
  number("--sequences", flags.job.sequences, "Of calibration");
  number("--tokens", flags.job.tokens, "Of a sequence");
  number("--output-block", flags.job.output_block, "Rows of the blocks of H_O");
  number("--back", flags.back, "Seconds until a lost stage begins anew");
  number("--passes", flags.job.passes, "Of coding over all blocks");
  CLI11_PARSE(app, argc, argv);
  cvxq::Status status;
  if (*check) status = cvxq::Check(runs);
  if (*link) status = cvxq::Link();
  if (*predict) status = cvxq::PredictAll(flags);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
