#include "pipeline/export.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "base/stopwatch.h"
#include "base/thread_pool.h"
#include "formats/grid_coder.h"
#include "pipeline/evaluate.h"
#include "pipeline/export_choice.h"
#include "pipeline/export_statistics.h"
#include "pipeline/linear_plan.h"
#include "pipeline/model_files.h"
#include "pipeline/output.h"
#include "pipeline/output_guard.h"
#include "pipeline/row_sample.h"
#include "storage/files.h"
#include "storage/spill_store.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSmallModel = int64_t{256} << 20;

StatusOr<std::unique_ptr<ExportFormat>> MakeFormat(const ExportOptions& options,
                                                   const ModelFiles& files) {
  const Checkpoint& checkpoint = *files.checkpoint;
  ExportFormatOptions format = options.format_options;
  if (options.uniform && format.menu.empty()) format.menu = {*options.uniform};
  switch (options.format) {
    case ExportFormatKind::kGguf:
      return MakeGguf(checkpoint, files.spec, format);
    case ExportFormatKind::kCompressedTensors:
      return MakeCompressedTensors(checkpoint, files.spec, format);
    case ExportFormatKind::kGptq:
      return MakeGptq(checkpoint, files.spec, format);
    case ExportFormatKind::kAwq:
      return MakeAwq(checkpoint, files.spec, format);
  }
  return absl::InternalError("a format without a maker");
}

class Exporter {
 public:
  Exporter(const ExportOptions& options, Progress& progress)
      : options_(options),
        progress_(progress),
        pool_(options.threads > 0 ? options.threads : AvailableProcessors()) {}

  StatusOr<ExportReport> Run() {
    CVXQ_RETURN_IF_ERROR(CheckOptions());
    CVXQ_RETURN_IF_ERROR(Open());
    if (!options_.nearest || options_.check_samples > 0) CVXQ_RETURN_IF_ERROR(Calibrate());
    if (!options_.nearest) CVXQ_RETURN_IF_ERROR(Statistics());
    ExportChoice choice;
    if (options_.uniform) {
      const bool only = options_.format_options.menu.empty();  // then the name is the whole menu
      CVXQ_ASSIGN_OR_RETURN(choice, ChooseUniform(*format_, *options_.uniform, only));
    } else {
      CVXQ_RETURN_IF_ERROR(Measure());
      CVXQ_ASSIGN_OR_RETURN(choice, Choose());
    }
    CVXQ_RETURN_IF_ERROR(WriteTo(output_->folder(), choice));
    if (options_.check_samples > 0) {
      CVXQ_ASSIGN_OR_RETURN(report_.kl, Divergence(output_->folder()));
      if (!options_.uniform) CVXQ_RETURN_IF_ERROR(CompareWithUniform(choice));
    }
    return Publish(choice);
  }

 private:
  Status CheckOptions() const {
    const int targets =
        options_.bits.has_value() + options_.size.has_value() + options_.uniform.has_value();
    if (targets != 1) {
      return absl::InvalidArgumentError("give one of --bits, --size and --uniform");
    }
    if (options_.bits && !(*options_.bits > 0 && *options_.bits <= 32)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--bits %g is out of range; it must be above 0 and at most 32", *options_.bits));
    }
    if (options_.nearest && !options_.uniform) {
      return absl::InvalidArgumentError("--nearest is for --uniform");
    }
    if (options_.calibration.samples < 1) {
      return absl::InvalidArgumentError("--samples must be at least 1");
    }
    if (options_.calibration.seq_len < 2) {
      return absl::InvalidArgumentError("--seq-len must be at least 2");
    }
    return absl::OkStatus();
  }

  Status Open() {
    CVXQ_ASSIGN_OR_RETURN(files_, OpenModel(options_.model, options_.threads));
    if (files_.packed) {
      return absl::InvalidArgumentError(absl::StrCat(
          options_.model, ": the model is quantised already; export from the original checkpoint"));
    }
    CVXQ_ASSIGN_OR_RETURN(format_, MakeFormat(options_, files_));
    CVXQ_RETURN_IF_ERROR(CheckOutput(options_.model, options_.output, options_.overwrite));
    CVXQ_ASSIGN_OR_RETURN(output_, Output::Create(options_.output, options_.overwrite));
    CVXQ_ASSIGN_OR_RETURN(backend_, MakeBackend(options_.backend, pool_.threads()));
    memory_ =
        options_.memory.value_or(std::max(kSmallModel, files_.checkpoint->total_bytes() / 10));
    store_ = std::make_unique<SpillStore>(output_->folder(), memory_ / 2);
    for (const ExportMatrix& matrix : format_->matrices()) {
      if (matrix.fallback.empty()) continue;
      progress_.Note(
          absl::StrCat(matrix.name, ": ", matrix.fallback, "; the report names all such matrices"));
      break;
    }
    watch_.Lap("open");
    return absl::OkStatus();
  }

  Status Calibrate() {
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer,
                          Tokenizer::Load(files_.checkpoint->files()));
    CalibrationOptions options = options_.calibration;
    if (options.seq_len > files_.spec.max_positions) {
      progress_.Note(
          absl::StrFormat("sequences are %d tokens: the model's limit", files_.spec.max_positions));
      options.seq_len = files_.spec.max_positions;
    }
    options.samples += options_.check_samples;
    CVXQ_ASSIGN_OR_RETURN(calibration_,
                          LoadCalibrationSet(options, *tokenizer, files_.spec.vocabulary));
    progress_.Note("calibration: " + calibration_.description);
    // The last sequences are for the check alone.
    calibration_.samples = options_.calibration.samples;
    const auto own = calibration_.ids.begin() + calibration_.samples * calibration_.seq_len;
    check_ids_.assign(own, calibration_.ids.end());
    calibration_.ids.erase(own, calibration_.ids.end());
    watch_.Lap("calibration");
    return absl::OkStatus();
  }

  Status Statistics() {
    bool tables = false;
    for (const ExportMatrix& matrix : format_->matrices()) {
      tables |= matrix.role != ExportMatrix::Role::kLinear && HasGrids(matrix);
    }
    CVXQ_ASSIGN_OR_RETURN(statistics_,
                          ExportStatistics::Collect(files_, calibration_,
                                                    {.damping = options_.damping,
                                                     .shrinkage = options_.shrinkage,
                                                     .seed = options_.calibration.seed,
                                                     .memory = memory_,
                                                     .tables = tables},
                                                    *backend_, pool_, *store_, progress_));
    watch_.Lap("statistics");
    return absl::OkStatus();
  }

  StatusOr<std::vector<float>> Weights(const ExportMatrix& matrix) const {
    LinearPlan plan;
    plan.name = matrix.name;
    plan.rows = matrix.rows;
    plan.columns = matrix.columns;
    return ReadWeights(*files_.checkpoint, plan);
  }

  // What each type of each matrix loses: coded as it will be, on some rows of large ones.
  Status Measure() {
    const std::vector<ExportMatrix>& matrices = format_->matrices();
    int64_t types = 0;
    for (const ExportMatrix& matrix : matrices) {
      types += static_cast<int64_t>(matrix.types.size());
    }
    auto phase = progress_.Start("measure", types, "types of matrices");
    distortion_.resize(matrices.size());
    for (size_t i = 0; i < matrices.size(); ++i) {
      const ExportMatrix& matrix = matrices[i];
      std::optional<RowSample> sample;
      for (const WeightType* type : matrix.types) {
        CVXQ_RETURN_IF_ERROR(CheckInterrupted());
        double distortion = 0;  // of dense types: next to nothing
        if (!type->dense()) {
          if (!sample) {
            CVXQ_ASSIGN_OR_RETURN(std::vector<float> w, Weights(matrix));
            CVXQ_ASSIGN_OR_RETURN(MatrixCurvature curvature, statistics_->Of(matrix));
            sample = SampleRows(std::move(w), std::move(curvature), matrix.columns,
                                options_.measured_rows);
          }
          const GridMatrix coded =
              CodeOnGrids(sample->curvature.Input(sample->w.data(), sample->rows, matrix.columns),
                          *type, pool_, /*refits=*/0);  // all but a percent of what will come of it
          distortion = 0.5 * coded.distortion * sample->scale;
        }
        if (options_.believe) distortion = options_.believe(i, *type, distortion);
        distortion_[i].push_back(distortion);
        phase.Advance();
      }
    }
    phase.Done();
    watch_.Lap("measure");
    return absl::OkStatus();
  }

  StatusOr<ExportChoice> Choose() {
    CVXQ_ASSIGN_OR_RETURN(FittedChoice fitted,
                          options_.bits ? ChooseForBits(*format_, distortion_, *options_.bits)
                                        : ChooseForSize(*format_, distortion_, *options_.size));
    limit_ = fitted.limit_bytes;
    report_.least_step_bytes = fitted.steps.least;
    report_.most_step_bytes = fitted.steps.most;
    report_.log2_lambda = fitted.log2_lambda;
    report_.predicted_distortion = fitted.distortion;
    return std::move(fitted.types);
  }

  StatusOr<ExportedMatrix> CodeMatrix(size_t index, const WeightType& type,
                                      std::vector<double>& distortion) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    const ExportMatrix& matrix = format_->matrices()[index];
    ExportedMatrix result;
    CVXQ_ASSIGN_OR_RETURN(std::vector<float> w, Weights(matrix));
    if (type.dense()) {
      result.values = std::move(w);
      return result;
    }
    if (options_.nearest) {
      result.grid =
          CodeNearest({.w = w.data(), .rows = matrix.rows, .columns = matrix.columns}, type, pool_);
      return result;
    }
    CVXQ_ASSIGN_OR_RETURN(const MatrixCurvature curvature, statistics_->Of(matrix));
    result.grid = CodeOnGrids(curvature.Input(w.data(), matrix.rows, matrix.columns), type, pool_);
    distortion[index] = 0.5 * result.grid.distortion;
    return result;
  }

  Status WriteTo(const std::string& folder, const ExportChoice& choice) {
    auto phase = progress_.Start("code", static_cast<int64_t>(choice.size()), "matrices");
    measured_.assign(choice.size(), 0.0);
    CVXQ_RETURN_IF_ERROR(format_->Write(
        choice,
        [&](size_t index) -> StatusOr<ExportedMatrix> {
          CVXQ_ASSIGN_OR_RETURN(ExportedMatrix matrix,
                                CodeMatrix(index, *choice[index], measured_));
          phase.Advance();
          return matrix;
        },
        folder));
    phase.Done(absl::StrFormat("%.4f bits a weight", BitsOf(*format_, choice)));
    watch_.Lap("code");
    return absl::OkStatus();
  }

  // KL(original || what a folder holds) on the sequences that are kept for it, read back from the
  // very bytes.
  StatusOr<double> Divergence(const std::string& folder) {
    CVXQ_ASSIGN_OR_RETURN(const ModelFiles written, OpenModel(folder, options_.threads));
    const ModelOptions memory{.resident_bytes = memory_ / 2};
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Load(written.spec, *written.weights, memory, *backend_));
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> original,
                          Model::Load(files_.spec, *files_.weights, memory, *backend_));
    auto phase = progress_.Start("check", options_.check_samples, "sequences");
    CVXQ_ASSIGN_OR_RETURN(const double kl, MeanDivergence(*model, *original, check_ids_,
                                                          calibration_.seq_len, phase));
    phase.Done(absl::StrFormat("KL %.3g nats a token", kl));
    watch_.Lap("check");
    return kl;
  }

  // The largest of the files with one type everywhere that is no larger than what was written: if
  // it is the better one, it is what is written.
  Status CompareWithUniform(ExportChoice& choice) {
    const UniformChoice best = LargestUniform(*format_, limit_);
    if (best.type == nullptr || best.types == choice) return absl::OkStatus();
    const std::vector<double> measured = measured_;
    const std::string folder = output_->folder() + "/uniform";
    std::error_code error;
    if (!fs::create_directory(folder, error)) {
      return absl::InternalError(absl::StrCat("cannot create ", folder, ": ", error.message()));
    }
    CVXQ_RETURN_IF_ERROR(WriteTo(folder, best.types));
    CVXQ_ASSIGN_OR_RETURN(const double kl, Divergence(folder));
    report_.uniform = best.type->name();
    report_.uniform_bytes = format_->TotalBytes(best.types);
    report_.uniform_kl = kl;
    if (kl >= *report_.kl) {
      fs::remove_all(folder, error);
      measured_ = measured;
      return absl::OkStatus();
    }
    progress_.Note(
        absl::StrFormat("%s everywhere measured better (KL %.3g) than the types chosen (%.3g): it "
                        "is what is written",
                        best.type->name(), kl, *report_.kl));
    report_.fell_back = true;
    report_.least_step_bytes = report_.most_step_bytes = 0;
    std::swap(*report_.kl, *report_.uniform_kl);
    choice = best.types;
    return TakeFrom(folder);
  }

  // Puts the files of a folder inside the output in the place of the output's.
  Status TakeFrom(const std::string& folder) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(output_->folder(), error)) {
      if (entry.is_regular_file()) fs::remove(entry.path(), error);
    }
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      fs::rename(entry.path(), output_->folder() / entry.path().filename(), error);
      if (error) break;
    }
    if (!error) fs::remove(folder, error);
    return error ? absl::InternalError(
                       absl::StrCat("cannot move files out of ", folder, ": ", error.message()))
                 : absl::OkStatus();
  }

  StatusOr<ExportReport> Publish(const ExportChoice& choice) {
    report_.output = options_.output;
    report_.format = format_->name();
    report_.calibration = calibration_.description;
    report_.asked_bytes = options_.size;
    report_.bits_per_weight = BitsOf(*format_, choice);
    for (const auto& entry : fs::directory_iterator(output_->folder())) {
      const std::string name = entry.path().filename();
      report_.file_bytes += static_cast<int64_t>(entry.file_size());
      CVXQ_ASSIGN_OR_RETURN(report_.sha256[name], FileSha256(entry.path()));
    }
    for (size_t i = 0; i < choice.size(); ++i) {
      const ExportMatrix& matrix = format_->matrices()[i];
      ExportReport::Matrix& of = report_.matrices.emplace_back();
      of = {.name = matrix.name,
            .type = choice[i]->name(),
            .fallback = matrix.fallback,
            .rows = matrix.rows,
            .columns = matrix.columns,
            .bytes = choice[i]->Bytes(matrix.rows, matrix.columns),
            .measured_distortion = measured_[i]};
      for (size_t t = 0; t < matrix.types.size() && !distortion_.empty(); ++t) {
        if (matrix.types[t] == choice[i]) of.predicted_distortion = distortion_[i][t];
      }
      report_.measured_distortion += measured_[i];
    }
    report_.notes = progress_.notes();
    report_.seconds = watch_.Finish();
    CVXQ_RETURN_IF_ERROR(WriteFile(absl::StrCat(output_->folder(), "/", kExportReportName),
                                   report_.ToJson().dump(2) + "\n"));
    CVXQ_RETURN_IF_ERROR(output_->Upload({{"format", report_.format},
                                          {"bits_per_weight", report_.bits_per_weight},
                                          {"file_bytes", report_.file_bytes}}));
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    Failpoint("export-before-publish");
    CVXQ_RETURN_IF_ERROR(output_->Publish());
    watch_.Lap("write");
    report_.seconds = watch_.Finish();
    return report_;
  }

  const ExportOptions& options_;
  Progress& progress_;
  ThreadPool pool_;
  int64_t memory_ = 0;
  ModelFiles files_;
  std::unique_ptr<ExportFormat> format_;
  std::unique_ptr<Output> output_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<SpillStore> store_;
  CalibrationSet calibration_;
  std::vector<int32_t> check_ids_;  // sequences that no statistics saw
  std::unique_ptr<ExportStatistics> statistics_;
  TypeDistortions distortion_;
  int64_t limit_ = 0;             // bytes of all files that were asked for
  std::vector<double> measured_;  // of each matrix as it was written last
  Stopwatch watch_;
  ExportReport report_;
};

}  // namespace

StatusOr<ExportReport> Export(const ExportOptions& options, Progress& progress) {
  return Exporter(options, progress).Run();
}

}  // namespace cvxq
