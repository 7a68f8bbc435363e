#include "pipeline/quantize.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "base/memory.h"
#include "base/size.h"
#include "base/stopwatch.h"
#include "base/thread_pool.h"
#include "pipeline/job_state.h"
#include "pipeline/job_steps.h"
#include "pipeline/linear_plan.h"
#include "pipeline/local_stages.h"
#include "pipeline/model_coder.h"
#include "pipeline/model_files.h"
#include "pipeline/output.h"
#include "pipeline/output_guard.h"
#include "pipeline/packed_writer.h"
#include "pipeline/quantized_overlay.h"
#include "pipeline/tune.h"
#include "storage/files.h"
#include "storage/source_fingerprint.h"
#include "storage/spill_store.h"

namespace cvxq {
namespace {

constexpr int64_t kSurveySamples = 8;  // gradients that decide clusters where groups are measured
constexpr int64_t kSmallModel = int64_t{256} << 20;

std::unique_ptr<ModelCoder> MakeCoder(const QuantizeOptions& options) {
  switch (options.codec) {
    case CodecKind::kCompanded:
    case CodecKind::kLloyd:
      return MakeGroupedCoder(options);
    case CodecKind::kEntropy:
      return MakeEntropyCoder(options);
    case CodecKind::kRtn:
    case CodecKind::kGptq:
    case CodecKind::kAwq:
    case CodecKind::kOwq:
      return MakeAffineCoder(options);
  }
  return nullptr;
}

class Quantizer {
 public:
  Quantizer(const QuantizeOptions& options, Progress& progress)
      : options_(options),
        progress_(progress),
        pool_(options.threads > 0 ? options.threads : AvailableProcessors()),
        coder_(MakeCoder(options)) {}

  StatusOr<QuantizeReport> Run() {
    CVXQ_RETURN_IF_ERROR(CheckOptions());
    CVXQ_RETURN_IF_ERROR(Open());
    CVXQ_RETURN_IF_ERROR(Calibrate());
    Status coded = Code();
    if (absl::IsDataLoss(coded) && steps_ != nullptr && steps_->kept()) {
      progress_.Note(absl::StrCat("what is kept of this job may be damaged, so it is done again: ",
                                  coded.message()));
      CVXQ_RETURN_IF_ERROR(Forget());
      coded = Code();
    }
    CVXQ_RETURN_IF_ERROR(coded);
    CVXQ_RETURN_IF_ERROR(Tune());
    return Publish();
  }

 private:
  // All of the job's steps until everything is coded.
  Status Code() {
    CVXQ_RETURN_IF_ERROR(BeginSteps());
    CVXQ_RETURN_IF_ERROR(Gradients());
    CVXQ_RETURN_IF_ERROR(Moments());
    for (int64_t iteration = 0; iteration < options_.iterations; ++iteration) {
      CVXQ_RETURN_IF_ERROR(MoreGradients(iteration));
      CVXQ_RETURN_IF_ERROR(coder_->Code(*context_));
    }
    return absl::OkStatus();
  }

  // Gives up all that has been done and kept.
  Status Forget() {
    context_.reset();
    steps_.reset();
    CVXQ_RETURN_IF_ERROR(state_->Remove());
    coder_ = MakeCoder(options_);
    plans_ = MakePlans(files_.spec);
    return coder_->ChooseFeedback(options_.feedback).status();
  }

  Status CheckOptions() {
    if (options_.bits.has_value() == options_.size.has_value()) {
      return absl::InvalidArgumentError("give either --bits or --size");
    }
    if (options_.bits && !(*options_.bits > 0 && *options_.bits <= kMaxDepth)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--bits %g is out of range; it must be above 0 and at most 8", *options_.bits));
    }
    if (options_.nominal && !options_.bits) {
      return absl::InvalidArgumentError("--nominal needs --bits");
    }
    const auto at_least_one = [](const char* flag, int64_t value) {
      return value >= 1 ? absl::OkStatus()
                        : absl::InvalidArgumentError(
                              absl::StrCat(flag, " must be at least 1, not ", value));
    };
    CVXQ_RETURN_IF_ERROR(at_least_one("--samples", options_.calibration.samples));
    CVXQ_RETURN_IF_ERROR(at_least_one("--grad-samples", options_.grad_samples.value_or(1)));
    CVXQ_RETURN_IF_ERROR(at_least_one("--iterations", options_.iterations));
    CVXQ_RETURN_IF_ERROR(at_least_one("--group-rows", options_.group_rows.value_or(1)));
    if (options_.tune < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tune must be at least 0, not ", options_.tune));
    }
    if (options_.threads < 0) return at_least_one("--threads", options_.threads);
    if (options_.calibration.seq_len < 2) {
      return absl::InvalidArgumentError("--seq-len must be at least 2");
    }
    CVXQ_RETURN_IF_ERROR(at_least_one("--group", options_.group));
    if (!(options_.shrinkage >= 0 && options_.shrinkage < 1)) {
      return absl::InvalidArgumentError("--shrinkage must be at least 0 and below 1");
    }
    CVXQ_RETURN_IF_ERROR(at_least_one("--workers", options_.workers));
    if (options_.workers > 1 && !Cut()) {
      return absl::InvalidArgumentError(
          "--workers is for --codec entropy with --objective fisher, one iteration and --estimator "
          "labels or signs");
    }
    if (options_.replicas < 0 || options_.replicas > options_.workers) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--replicas must be from 1 to the number of --workers, not ", options_.replicas));
    }
    CVXQ_ASSIGN_OR_RETURN(feedback_, coder_->ChooseFeedback(options_.feedback));
    needs_ = coder_->Needs();
    return absl::OkStatus();
  }

  Status Open() {
    CVXQ_ASSIGN_OR_RETURN(files_, OpenModel(options_.model));
    if (files_.packed) {
      return absl::InvalidArgumentError(absl::StrCat(
          options_.model, ": the model is already packed; quantise from the original checkpoint"));
    }
    CVXQ_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(files_.checkpoint->files()));
    CVXQ_RETURN_IF_ERROR(CheckOutput(options_.model, options_.output, options_.overwrite));
    CVXQ_ASSIGN_OR_RETURN(output_, Output::Create(options_.output, options_.overwrite));
    CVXQ_ASSIGN_OR_RETURN(backend_, MakeBackend(options_.backend, pool_.threads()));
    numerics_ = NumericsOf(*backend_);
    if (Cut() && options_.stage_numerics) {
      CVXQ_ASSIGN_OR_RETURN(const std::optional<Numerics> others, options_.stage_numerics());
      numerics_ = others.value_or(numerics_);
    }
    const int64_t model_bytes = files_.checkpoint->total_bytes();
    memory_ = options_.memory.value_or(std::max(kSmallModel, model_bytes / 10));
    store_ = std::make_unique<SpillStore>(output_->folder(), memory_ / 2);
    plans_ = MakePlans(files_.spec);
    output_block_ = OutputBlockRows(files_.spec, memory_ / 2, options_.group_rows.value_or(64));
    watch_.Lap("open");
    return absl::OkStatus();
  }

  Status Calibrate() {
    CalibrationOptions options = options_.calibration;
    if (options.seq_len > files_.spec.max_positions) {
      progress_.Note(
          absl::StrFormat("sequences are %d tokens: the model's limit", files_.spec.max_positions));
      options.seq_len = files_.spec.max_positions;
    }
    CVXQ_ASSIGN_OR_RETURN(calibration_,
                          LoadCalibrationSet(options, *tokenizer_, files_.spec.vocabulary));
    progress_.Note("calibration: " + calibration_.description);
    watch_.Lap("calibration");
    return absl::OkStatus();
  }

  ModelOptions ModelMemory() const {
    const bool bf16 = options_.compute == ComputeKind::kBF16 ||
                      (options_.compute == ComputeKind::kAuto && numerics_.fast_bf16 &&
                       files_.checkpoint->total_bytes() > kSmallModel);
    return {.compute = bf16 ? DType::kBF16 : DType::kF32, .resident_bytes = memory_ / 2};
  }

  // Which samples an iteration takes: the next ones each time, from the start again at the end.
  GradientOptions GradientsOf(int64_t iteration) const {
    GradientOptions options;
    options.objective = options_.objective;
    options.estimator = options_.estimator.value_or(
        options_.objective == Objective::kFisher ? Estimator::kLabels : Estimator::kSigns);
    options.stride = options_.stride;
    options.seed = options_.calibration.seed;
    options.samples = std::min(
        options_.grad_samples.value_or(feedback_ == Feedback::kTwo ? calibration_.samples : 32),
        calibration_.samples);
    const int64_t batches = std::max<int64_t>(1, calibration_.samples / options.samples);
    options.first_sample = (iteration % batches) * options.samples;
    return options;
  }

  // Whether the job may be cut into stages: a model that is not is a stage by itself.
  bool Cut() const {
    return options_.codec == CodecKind::kEntropy && options_.iterations == 1 &&
           options_.objective == Objective::kFisher &&
           options_.estimator.value_or(Estimator::kLabels) != Estimator::kTokens;
  }

  Status BeginSteps() {
    CVXQ_ASSIGN_OR_RETURN(writer_, PackedWriter::Make(*files_.checkpoint, PackedConfig(), plans_));
    if (!options_.state.empty()) {
      CVXQ_ASSIGN_OR_RETURN(const std::string identity, Identity());
      CVXQ_ASSIGN_OR_RETURN(state_, JobState::Open(options_.state, identity));
    }
    StageJob job{.options = options_,
                 .files = files_,
                 .calibration = calibration_,
                 .needs = needs_,
                 .feedback = feedback_,
                 .gradients = GradientsOf(0),
                 .output_block = output_block_,
                 .compute = ModelMemory().compute,
                 .numerics_class = numerics_.numerics_class,
                 .spill_folder = output_->folder(),
                 .state = state_.get(),
                 .save_seconds = options_.save_seconds};
    if (needs_.group_gradients) {
      job.gradients.samples = std::min(job.gradients.samples, kSurveySamples);
    }
    std::unique_ptr<Stages> stages;
    const StageContext* whole = nullptr;
    if (!Cut()) {
      job.coder = coder_.get();
      job.plans = &plans_;
      CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<LocalStages> local,
                            LocalStages::Make(job, 1, pool_.threads(), memory_));
      whole = &local->first();
      stages = std::move(local);
    } else if (options_.make_stages) {
      CVXQ_ASSIGN_OR_RETURN(stages, options_.make_stages(job));
    }
    if (stages == nullptr) {
      CVXQ_ASSIGN_OR_RETURN(stages,
                            LocalStages::Make(job, options_.workers, pool_.threads(), memory_));
    }
    steps_ = std::make_unique<JobSteps>(std::move(stages), state_.get(), options_.save_seconds,
                                        options_.damping, progress_);
    context_.emplace(CodingContext{.options = options_,
                                   .spec = files_.spec,
                                   .plans = plans_,
                                   .progress = progress_,
                                   .watch = watch_,
                                   .writer = *writer_,
                                   .steps = *steps_,
                                   .whole = whole});
    return steps_->Begin();
  }

  // All that the state of a job depends on: what is kept is used by the same job alone.
  StatusOr<std::string> Identity() const {
    CVXQ_ASSIGN_OR_RETURN(const std::string source, SourceFingerprint(options_.model));
    const GradientOptions gradients = GradientsOf(0);
    return absl::StrCat(
        "job state 2\n", source, "\n", PackedConfig().dump(), "\n",
        absl::StrFormat("%a %d %d\n", options_.bits.value_or(0), options_.size.value_or(0),
                        options_.nominal),
        absl::StrFormat("%d %d %d %d %d %d %d %d\n", gradients.estimator, gradients.samples,
                        gradients.stride, gradients.seed, calibration_.samples,
                        calibration_.seq_len, output_block_, options_.tune),
        absl::StrFormat("%d %d %d %d\n", options_.iterations, options_.partition,
                        options_.group_rows.value_or(0), options_.group),
        absl::StrFormat("%a %a\n", options_.damping, options_.shrinkage));
  }

  Status Gradients() {
    if (!needs_.gradients) return absl::OkStatus();
    CVXQ_RETURN_IF_ERROR(steps_->Gradients());
    watch_.Lap("gradients");
    return absl::OkStatus();
  }

  // Group sums, or a later iteration's.
  Status MoreGradients(int64_t iteration) {
    if (!needs_.gradients || !(needs_.group_gradients || iteration > 0)) return absl::OkStatus();
    const QuantizedOverlay coded(*files_.weights, plans_, *coder_);
    const WeightSource& original = *files_.weights;
    CVXQ_RETURN_IF_ERROR(steps_->MoreGradients({.options = GradientsOf(iteration),
                                                .weights = iteration > 0 ? coded : original,
                                                .iteration = iteration}));
    watch_.Lap("gradients");
    return absl::OkStatus();
  }

  Status Moments() {
    if (!needs_.input_factors && !needs_.input_means) return absl::OkStatus();
    CVXQ_RETURN_IF_ERROR(steps_->Moments());
    watch_.Lap("input moments");
    return absl::OkStatus();
  }

  Status Tune() {
    if (options_.tune > 0) CVXQ_RETURN_IF_ERROR(steps_->Keep());
    context_.reset();
    steps_.reset();  // statistics that nobody needs any more
    if (options_.tune == 0) return absl::OkStatus();
    CVXQ_RETURN_IF_ERROR(TuneParameters({.epochs = options_.tune,
                                         .seed = options_.calibration.seed,
                                         .spec = files_.spec,
                                         .original = *files_.weights,
                                         .calibration = calibration_,
                                         .coder = *coder_,
                                         .memory = ModelMemory(),
                                         .backend = *backend_,
                                         .store = *store_,
                                         .progress = progress_,
                                         .plans = plans_,
                                         .writer = *writer_,
                                         .state = state_.get(),
                                         .save_seconds = options_.save_seconds}));
    watch_.Lap("tune");
    return absl::OkStatus();
  }

  int64_t QuantizedWeights() const { return files_.spec.quantized_parameters(); }

  nlohmann::json PackedConfig() const {
    nlohmann::json config = files_.checkpoint->config();
    config["quantization_config"] = {
        {"quant_method", "cvxq"},
        {"format_version", kPackedFormatVersion},
        {"codec", coder_->name()},
        {"objective", options_.objective == Objective::kFisher ? "fisher" : "hidden"},
        {"feedback", FeedbackName()},
        {"calibration_hash", absl::StrFormat("%016x", calibration_.hash)},
        {"numerics_class", NumericsClass()}};
    return config;
  }

  const char* FeedbackName() const {
    return feedback_ == Feedback::kTwo ? "two" : feedback_ == Feedback::kOne ? "one" : "none";
  }
  std::string NumericsClass() const {
    return absl::StrCat(numerics_.numerics_class, "-",
                        ModelMemory().compute == DType::kBF16 ? "bf16" : "fp32");
  }

  StatusOr<QuantizeReport> Publish() {
    Failpoint("output-before-write");
    CVXQ_RETURN_IF_ERROR(writer_->Write(output_->folder()));
    Failpoint("output-written");

    QuantizeReport report;
    report.output = options_.output;
    report.codec = coder_->name();
    report.calibration = calibration_.description;
    report.backend = numerics_.backend;
    report.numerics_class = NumericsClass();
    report.parameters = files_.parameters();
    report.quantized_parameters = QuantizedWeights();
    const double weights = static_cast<double>(report.quantized_parameters);
    report.bits_per_weight = 8.0 * writer_->PackedBytes() / weights;
    report.file_bytes = writer_->OutputBytes();
    int64_t model_bytes = 0, code_bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(output_->folder())) {
      const std::string name = entry.path().filename();
      if (name.ends_with(".safetensors")) model_bytes += entry.file_size();
      CVXQ_ASSIGN_OR_RETURN(report.sha256[name], FileSha256(entry.path()));
    }
    report.file_bits = 8.0 * model_bytes / static_cast<double>(report.parameters);
    double zeros = 0;
    for (const LinearPlan& plan : plans_) {
      code_bytes += plan.code_bytes;
      zeros += plan.zero_weights;
      report.layers.push_back(ReportLayer(plan));
    }
    report.nominal_bits_per_weight = 8.0 * code_bytes / weights;
    report.zero_fraction = zeros / weights;
    report.log2_lambda = coder_->log2_lambda();
    report.iterations = options_.iterations;
    report.tune_epochs = options_.tune;
    report.notes = progress_.notes();
    report.coding_passes = coder_->passes();
    report.peak_memory_bytes = PeakResidentBytes();
    watch_.Lap("write");
    report.seconds = watch_.Finish();
    CVXQ_RETURN_IF_ERROR(
        output_->Upload({{"bits_per_weight", report.bits_per_weight},
                         {"nominal_bits_per_weight", report.nominal_bits_per_weight},
                         {"file_bytes", report.file_bytes},
                         {"parameters", report.parameters},
                         {"quantized_parameters", report.quantized_parameters},
                         {"codec", report.codec},
                         {"numerics_class", report.numerics_class}}));
    if (options_.before_publish) CVXQ_RETURN_IF_ERROR(options_.before_publish(report));
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    Failpoint("output-before-publish");
    CVXQ_RETURN_IF_ERROR(output_->Publish());
    Failpoint("output-published");
    if (state_ != nullptr) state_->Remove().IgnoreError();  // the output is there all the same
    watch_.Lap("write");
    report.seconds = watch_.Finish();
    return report;
  }

  static LayerReport ReportLayer(const LinearPlan& plan) {
    return {.name = plan.name,
            .rows = plan.rows,
            .columns = plan.columns,
            .bits_per_weight = 8.0 * static_cast<double>(plan.packed_bytes) /
                               static_cast<double>(plan.rows * plan.columns),
            .predicted_distortion = plan.distortion,
            .depth_histogram = plan.depth_histogram};
  }

  const QuantizeOptions& options_;
  Progress& progress_;
  ThreadPool pool_;
  std::unique_ptr<ModelCoder> coder_;
  Feedback feedback_ = Feedback::kNone;
  StatisticsNeeds needs_;
  int64_t output_block_ = 0;
  int64_t memory_ = 0;
  ModelFiles files_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Output> output_;
  std::unique_ptr<Backend> backend_;
  Numerics numerics_;  // of the stages, wherever they are
  std::unique_ptr<SpillStore> store_;
  CalibrationSet calibration_;
  std::vector<LinearPlan> plans_;
  std::unique_ptr<PackedWriter> writer_;
  Stopwatch watch_;
  std::unique_ptr<JobState> state_;
  std::unique_ptr<JobSteps> steps_;       // until all is coded
  std::optional<CodingContext> context_;  // of all the above
};

}  // namespace

StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options, Progress& progress) {
  return Quantizer(options, progress).Run();
}

}  // namespace cvxq
