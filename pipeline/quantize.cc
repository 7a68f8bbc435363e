#include "pipeline/quantize.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "base/memory.h"
#include "base/size.h"
#include "base/stopwatch.h"
#include "base/thread_pool.h"
#include "pipeline/coding.h"
#include "pipeline/input_moments.h"
#include "pipeline/linear_plan.h"
#include "pipeline/model_files.h"
#include "pipeline/output_guard.h"
#include "pipeline/packed_writer.h"
#include "pipeline/quantized_overlay.h"
#include "quant/importance.h"
#include "storage/files.h"
#include "storage/spill_store.h"

namespace cvxq {
namespace {

constexpr double kTolerance = 0.001;  // the target is met within this share, and never exceeded
constexpr int kMaxCodingPasses = 8;
constexpr int kFeedbackRounds = 3;  // of allocation, each with the noise of the last one's depths
constexpr int64_t kSurveySamples =
    8;  // gradients that decide clusters when groups are measured after
constexpr int64_t kSmallModel = int64_t{256} << 20;

class Quantizer {
 public:
  Quantizer(const QuantizeOptions& options, Progress& progress)
      : options_(options),
        progress_(progress),
        pool_(options.threads > 0 ? options.threads : AvailableProcessors()),
        lloyd_(options.codec == CodecKind::kLloyd) {}

  StatusOr<QuantizeReport> Run() {
    CVXQ_RETURN_IF_ERROR(CheckOptions());
    CVXQ_RETURN_IF_ERROR(Open());
    CVXQ_RETURN_IF_ERROR(Calibrate());
    for (int64_t iteration = 0; iteration < options_.iterations; ++iteration) {
      CVXQ_RETURN_IF_ERROR(Gradients(iteration));
      if (iteration == 0) CVXQ_RETURN_IF_ERROR(Moments());
      CVXQ_RETURN_IF_ERROR(AllocateAndCode());
    }
    return Publish();
  }

 private:
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
    CVXQ_RETURN_IF_ERROR(at_least_one("--grad-samples", options_.grad_samples));
    CVXQ_RETURN_IF_ERROR(at_least_one("--iterations", options_.iterations));
    CVXQ_RETURN_IF_ERROR(at_least_one("--group-rows", options_.group_rows.value_or(1)));
    if (options_.threads < 0) return at_least_one("--threads", options_.threads);
    if (options_.calibration.seq_len < 2) {
      return absl::InvalidArgumentError("--seq-len must be at least 2");
    }
    feedback_ =
        options_.feedback.value_or(lloyd_ ? Feedback::kOne : Feedback::kNone) == Feedback::kOne;
    if (feedback_ && !lloyd_) {
      return absl::InvalidArgumentError(
          "--codec companded has no error feedback; use --feedback none or --codec lloyd");
    }
    return absl::OkStatus();
  }

  Status Open() {
    CVXQ_ASSIGN_OR_RETURN(files_, OpenModel(options_.model));
    if (files_.packed) {
      return absl::InvalidArgumentError(absl::StrCat(
          options_.model, ": the model is already packed; quantise from the original checkpoint"));
    }
    CVXQ_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(options_.model));
    CVXQ_RETURN_IF_ERROR(CheckOutput(options_.model, options_.output, options_.overwrite));
    CVXQ_ASSIGN_OR_RETURN(output_, OutputFolder::Create(options_.output, options_.overwrite));
    backend_ = MakeCpuBackend(pool_.threads());
    const int64_t model_bytes = files_.checkpoint->total_bytes();
    memory_ = options_.memory.value_or(std::max(kSmallModel, model_bytes / 10));
    store_ = std::make_unique<SpillStore>(output_->path(), memory_ / 2);
    plans_ = MakePlans(files_.spec);
    tables_ = lloyd_ ? LloydMaxTables(2.0) : CompanderTables();
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
                      (options_.compute == ComputeKind::kAuto && backend_->fast_bf16() &&
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
    options.samples = std::min(options_.grad_samples, calibration_.samples);
    const int64_t batches = std::max<int64_t>(1, calibration_.samples / options.samples);
    options.first_sample = (iteration % batches) * options.samples;
    return options;
  }

  // Group sums are what the papers allocate by; under feedback sums over rows are enough.
  bool NeedsGroups() const { return !feedback_ || options_.partition == Partition::kRows; }

  Status Gradients(int64_t iteration) {
    std::unique_ptr<QuantizedOverlay> overlay;
    const WeightSource* weights = files_.weights.get();
    if (iteration > 0) {
      CVXQ_ASSIGN_OR_RETURN(overlay,
                            QuantizedOverlay::Make(*files_.weights, plans_, {tables_.table}));
      weights = overlay.get();
    }
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Load(files_.spec, *weights, ModelMemory(), *backend_));
    GradientOptions options = GradientsOf(iteration);
    if (iteration == 0) {
      GradientOptions survey = options;
      if (NeedsGroups()) survey.samples = std::min(survey.samples, kSurveySamples);
      auto phase =
          progress_.Start(NeedsGroups() ? "survey" : "gradients", survey.samples, "sequences");
      CVXQ_ASSIGN_OR_RETURN(members_, CollectGradients(*model, calibration_, survey,
                                                       {.partition = options_.partition}, phase));
      phase.Done();
      CVXQ_RETURN_IF_ERROR(PlanGroups(*files_.checkpoint, members_, options_.partition,
                                      options_.group_rows.value_or(kDefaultClusterRows), pool_,
                                      plans_));
    }
    if (NeedsGroups() || iteration > 0) {
      CVXQ_RETURN_IF_ERROR(GroupGradients(*model, options, iteration));
    }
    watch_.Lap("gradients");
    return absl::OkStatus();
  }

  Status GroupGradients(Model& model, const GradientOptions& options, int64_t iteration) {
    ModelLayouts layouts(files_.spec.layers);
    for (const LinearPlan& plan : plans_) {
      layouts[plan.block][static_cast<int>(plan.id)] = plan.layout;
    }
    auto phase = progress_.Start("gradients", options.samples, "sequences");
    GradientRequest request{.partition = options_.partition, .layouts = &layouts};
    if (!NeedsGroups()) request.layouts = nullptr;
    CVXQ_ASSIGN_OR_RETURN(ModelGradients found,
                          CollectGradients(model, calibration_, options, request, phase));
    phase.Done();
    // Running averages over the iterations.
    const float share = 1.0f / static_cast<float>(iteration + 1);
    const auto average = [&](std::vector<float>& mean, std::vector<float>& value) {
      if (iteration == 0) {
        mean = std::move(value);
        return;
      }
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += (value[i] - mean[i]) * share;
    };
    for (LinearPlan& plan : plans_) {
      LinearGradients& gradients = found[plan.block][static_cast<int>(plan.id)];
      if (NeedsGroups()) {
        average(plan.group_gradient, gradients.group);
      } else {
        average(members_[plan.block][static_cast<int>(plan.id)].member, gradients.member);
      }
    }
    if (!NeedsGroups()) PlanRowGradients(members_, moments_, plans_);
    return absl::OkStatus();
  }

  bool BiasCorrection() const { return !lloyd_; }

  Status Moments() {
    if (!feedback_ && !BiasCorrection()) return absl::OkStatus();
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Load(files_.spec, *files_.weights, ModelMemory(), *backend_));
    auto phase = progress_.Start("input moments", files_.spec.layers, "blocks");
    CVXQ_ASSIGN_OR_RETURN(
        moments_, CollectInputMoments(*model, calibration_,
                                      {.factor = feedback_, .damping = options_.damping}, pool_,
                                      *store_, phase));
    phase.Done(store_->bytes_on_disk() > 0
                   ? FormatBytes(store_->bytes_on_disk()) + " kept on disk meanwhile"
                   : "");
    if (feedback_) PlanRowGradients(members_, moments_, plans_);
    watch_.Lap("input moments");
    return absl::OkStatus();
  }

  Status Allocate(int64_t budget_bits, bool first) {
    const bool by_feedback = feedback_ && options_.partition == Partition::kColumns;
    const int rounds = by_feedback && first ? kFeedbackRounds + 1 : 1;
    for (int round = 0; round < rounds; ++round) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      if (first) {
        CVXQ_RETURN_IF_ERROR(PlanImportance(by_feedback ? ImportanceKind::kFeedback
                                            : lloyd_    ? ImportanceKind::kGroupSquare
                                                        : ImportanceKind::kGroup,
                                            /*average=*/round >= 2, tables_.distortion, moments_,
                                            *store_, pool_, plans_));
      }
      allocation_ = PlanDepths(DepthModel::Paper(0), budget_bits, plans_);
    }
    return absl::OkStatus();
  }

  int64_t QuantizedWeights() const { return files_.spec.quantized_parameters(); }

  // What is counted against the target, for the plans as they are coded now.
  int64_t Counted(const PackedWriter& writer) const {
    return options_.size ? writer.OutputBytes() : writer.PackedBytes();
  }

  Status AllocateAndCode() {
    for (LinearPlan& plan : plans_) {  // of the iteration before
      plan.depth.clear();
      plan.packed.clear();
      plan.bias.clear();
    }
    writer_ = std::make_unique<PackedWriter>(*files_.checkpoint, PackedConfig(),
                                             std::vector<TableSet>{tables_.table}, plans_);
    const double weights = static_cast<double>(QuantizedWeights());
    const int64_t target = options_.size
                               ? *options_.size
                               : static_cast<int64_t>(std::floor(*options_.bits * weights / 8));
    if (options_.nominal) {
      CVXQ_RETURN_IF_ERROR(
          Allocate(static_cast<int64_t>(std::floor(*options_.bits * weights)), true));
      return Code(1);
    }
    // Bytes beside the allocated bits: at first a guess, then what the last pass has shown. Aim
    // slightly below the target: what lies between is lost, what lies above must be done again.
    int64_t beside = Counted(*writer_) + static_cast<int64_t>(weights * 0.02 / 8);
    const int64_t aim = target - static_cast<int64_t>(target * kTolerance * 0.3);
    for (int pass = 1;; ++pass) {
      const int64_t budget = (aim - beside) * 8;
      if (budget < 0) return TooSmall(beside, weights);
      CVXQ_RETURN_IF_ERROR(Allocate(budget, pass == 1));
      CVXQ_RETURN_IF_ERROR(Code(pass));
      const int64_t counted = Counted(*writer_);
      const bool all_depths_full = allocation_.bits + 8 * kMaxDepth < budget &&
                                   allocation_.bits >= static_cast<int64_t>(weights) * kMaxDepth;
      if (counted <= target && (counted >= target * (1 - kTolerance) || all_depths_full)) break;
      if (pass == kMaxCodingPasses) {
        if (counted <= target) break;
        return TooSmall(counted, weights);
      }
      beside = counted - allocation_.bits / 8;
    }
    return absl::OkStatus();
  }

  Status TooSmall(int64_t bytes, double weights) const {
    if (options_.size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--size %s is too small for this model: embeddings, norms and side "
                          "information alone take %s; ask for more",
                          FormatBytes(*options_.size), FormatBytes(bytes)));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("--bits %g is too low for this model: side information alone takes about "
                        "%.2f bits a weight; "
                        "ask for more, or raise --group-rows",
                        *options_.bits, bytes * 8 / weights));
  }

  Status Code(int pass) {
    auto phase = progress_.Start(pass == 1 ? "code" : absl::StrCat("code (pass ", pass, ")"),
                                 static_cast<int64_t>(plans_.size()), "linears");
    CVXQ_RETURN_IF_ERROR(
        CodePlans({.codec = options_.codec,
                   .feedback = feedback_,
                   .bias_correction = BiasCorrection(),
                   .scale_steps = lloyd_ ? kLloydScaleSteps : kCompandedScaleSteps},
                  tables_, *files_.checkpoint, moments_, *store_, pool_, phase, plans_));
    phase.Done(absl::StrFormat("%.4f bits a weight", 8.0 * writer_->PackedBytes() /
                                                         static_cast<double>(QuantizedWeights())));
    ++coding_passes_;
    watch_.Lap("code");
    return absl::OkStatus();
  }

  nlohmann::json PackedConfig() const {
    nlohmann::json config = files_.checkpoint->config();
    config["quantization_config"] = {
        {"quant_method", "cvxq"},
        {"format_version", kPackedFormatVersion},
        {"codec", CodecName()},
        {"objective", options_.objective == Objective::kFisher ? "fisher" : "hidden"},
        {"feedback", feedback_ ? "one" : "none"},
        {"calibration_hash", absl::StrFormat("%016x", calibration_.hash)},
        {"numerics_class", NumericsClass()}};
    return config;
  }

  std::string CodecName() const { return lloyd_ ? "lloyd" : "companded"; }
  std::string NumericsClass() const {
    return absl::StrCat(backend_->numerics_class(), "-",
                        ModelMemory().compute == DType::kBF16 ? "bf16" : "fp32");
  }

  StatusOr<QuantizeReport> Publish() {
    CVXQ_RETURN_IF_ERROR(writer_->Write(output_->path()));
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    CVXQ_RETURN_IF_ERROR(output_->Publish());

    QuantizeReport report;
    report.output = options_.output;
    report.codec = CodecName();
    report.calibration = calibration_.description;
    report.backend = backend_->name();
    report.numerics_class = NumericsClass();
    report.parameters = files_.parameters();
    report.quantized_parameters = QuantizedWeights();
    const double weights = static_cast<double>(report.quantized_parameters);
    report.bits_per_weight = 8.0 * writer_->PackedBytes() / weights;
    report.file_bytes = writer_->OutputBytes();
    int64_t model_bytes = 0, code_bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(output_->path())) {
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
    report.log2_lambda = allocation_.log2_lambda;
    report.iterations = options_.iterations;
    report.coding_passes = coding_passes_;
    report.peak_memory_bytes = PeakResidentBytes();
    watch_.Lap("write");
    report.seconds = watch_.Finish();
    return report;
  }

  LayerReport ReportLayer(const LinearPlan& plan) const {
    LayerReport layer{.name = plan.name, .rows = plan.rows, .columns = plan.columns};
    layer.bits_per_weight = 8.0 * static_cast<double>(plan.packed.size()) /
                            static_cast<double>(plan.rows * plan.columns);
    for (size_t g = 0; g < plan.depth.size(); ++g) {
      const int64_t weights = plan.layout.members_in(g / plan.layout.line_count());
      layer.depth_histogram[plan.depth[g]] += weights;
      if (!std::isfinite(plan.log2_importance[g])) continue;
      layer.predicted_distortion += 0.5 * static_cast<double>(weights) *
                                    std::exp2(plan.log2_importance[g]) *
                                    tables_.distortion[plan.depth[g]];
    }
    return layer;
  }

  static constexpr int64_t kDefaultClusterRows = 64;
  static constexpr int kLloydScaleSteps = 4, kCompandedScaleSteps = 16;

  const QuantizeOptions& options_;
  Progress& progress_;
  ThreadPool pool_;
  const bool lloyd_;
  bool feedback_ = false;
  int64_t memory_ = 0;
  ModelFiles files_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<OutputFolder> output_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<SpillStore> store_;
  CalibrationSet calibration_;
  LevelTables tables_;
  std::vector<LinearPlan> plans_;
  ModelGradients members_;
  ModelMoments moments_;
  Allocation allocation_;
  std::unique_ptr<PackedWriter> writer_;
  int64_t coding_passes_ = 0;
  Stopwatch watch_;
};

}  // namespace

StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options, Progress& progress) {
  return Quantizer(options, progress).Run();
}

}  // namespace cvxq
