#include "pipeline/export.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "base/size.h"
#include "base/stopwatch.h"
#include "base/thread_pool.h"
#include "formats/grid_coder.h"
#include "pipeline/evaluate.h"
#include "pipeline/export_statistics.h"
#include "pipeline/linear_plan.h"
#include "pipeline/model_files.h"
#include "pipeline/output.h"
#include "pipeline/output_guard.h"
#include "pipeline/type_choice.h"
#include "storage/files.h"
#include "storage/spill_store.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSmallModel = int64_t{256} << 20;

using Choice = std::vector<const WeightType*>;  // of every matrix

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

// Some rows of a matrix, evenly spread and whole blocks of those that feed one another, with their
// curvature; their distortion times `scale` stands for that of all.
struct RowSample {
  std::vector<float> w;
  MatrixCurvature curvature;
  int64_t rows = 0;
  double scale = 1;
};

// The sum of row weight times squares: what distortion is in proportion to.
double Energy(const std::vector<float>& w, const std::vector<float>& row_weight, int64_t columns) {
  double sum = 0;
  for (size_t r = 0; r < row_weight.size(); ++r) {
    double row = 0;
    for (int64_t c = 0; c < columns; ++c) {
      const double value = w[r * columns + c];
      row += value * value;
    }
    sum += row * row_weight[r];
  }
  return sum;
}

RowSample SampleRows(std::vector<float> w, MatrixCurvature curvature, int64_t columns,
                     int64_t measured_rows) {
  RowSample sample;
  const auto rows = static_cast<int64_t>(curvature.row_weight.size());
  const auto blocks = static_cast<int64_t>(curvature.blocks.size());
  const int64_t unit = blocks > 0 ? static_cast<int64_t>(curvature.blocks[0].rows.size()) : 1;
  const int64_t units = blocks > 0 ? blocks : rows;
  const int64_t take = std::max<int64_t>(1, measured_rows / unit);
  if (2 * take > units) {
    sample.rows = rows;
    sample.w = std::move(w);
    sample.curvature = std::move(curvature);
    return sample;
  }
  std::vector<int32_t> chosen;
  for (int64_t i = 0; i < take; ++i) {
    const int64_t at = i * units / take;
    if (blocks == 0) {
      chosen.push_back(static_cast<int32_t>(at));
      continue;
    }
    RowBlock block = std::move(curvature.blocks[at]);
    for (int32_t& row : block.rows) {
      chosen.push_back(row);
      row = static_cast<int32_t>(chosen.size()) - 1;
    }
    sample.curvature.blocks.push_back(std::move(block));
  }
  for (const int32_t row : chosen) {
    sample.w.insert(sample.w.end(), &w[row * columns], &w[row * columns] + columns);
    sample.curvature.row_weight.push_back(curvature.row_weight[row]);
  }
  sample.rows = static_cast<int64_t>(chosen.size());
  const double part = Energy(sample.w, sample.curvature.row_weight, columns);
  if (part > 0) sample.scale = Energy(w, curvature.row_weight, columns) / part;
  sample.curvature.inputs = std::move(curvature.inputs);
  return sample;
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
    Choice choice;
    if (options_.uniform) {
      CVXQ_ASSIGN_OR_RETURN(choice, Uniform(*options_.uniform));
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

  static bool HasGrids(const ExportMatrix& matrix) {
    return std::any_of(matrix.types.begin(), matrix.types.end(),
                       [](const WeightType* type) { return !type->dense(); });
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

  // Matrices that must share a type, each alone where it need not.
  std::vector<std::vector<size_t>> TiedMatrices() const {
    std::vector<std::vector<size_t>> tied;
    std::map<int64_t, size_t> place;
    for (size_t i = 0; i < format_->matrices().size(); ++i) {
      const int64_t tie = format_->matrices()[i].tie;
      const auto [found, fresh] = place.emplace(tie, tied.size());
      if (tie < 0 || fresh) {
        if (tie >= 0) found->second = tied.size();
        tied.push_back({i});
      } else {
        tied[found->second].push_back(i);
      }
    }
    return tied;
  }

  StatusOr<Choice> Choose() {
    const std::vector<ExportMatrix>& matrices = format_->matrices();
    // Items of the problem, and for each of their options the type.
    const std::vector<std::vector<size_t>> tied = TiedMatrices();
    std::vector<TypeOptions> items;
    std::vector<std::vector<const WeightType*>> types;
    for (const std::vector<size_t>& members : tied) {
      TypeOptions& options = items.emplace_back();
      types.push_back(matrices[members[0]].types);
      for (size_t t = 0; t < types.back().size(); ++t) {
        TypeOption& option = options.emplace_back();
        for (const size_t i : members) {
          option.bytes += types.back()[t]->Bytes(matrices[i].rows, matrices[i].columns);
          option.distortion += distortion_[i][t];
        }
      }
    }
    const auto spread = [&](const TypeChoice& found) {
      Choice choice(matrices.size());
      for (size_t item = 0; item < tied.size(); ++item) {
        for (const size_t i : tied[item]) choice[i] = types[item][found.option[item]];
      }
      return choice;
    };
    if (options_.bits) {
      double weights = 0, fixed = 0;  // of matrices with a choice; bytes of others
      for (const ExportMatrix& matrix : matrices) {
        const int64_t bytes = matrix.types[0]->Bytes(matrix.rows, matrix.columns);
        if (HasGrids(matrix)) {
          weights += static_cast<double>(matrix.rows * matrix.columns);
        } else {
          fixed += static_cast<double>(bytes);
        }
      }
      const auto budget = static_cast<int64_t>(fixed + *options_.bits * weights / 8);
      StatusOr<TypeChoice> found = ChooseTypes(items, budget);
      if (!found.ok()) return TooSmall(found.status());
      Keep(items, *found);
      Choice choice = spread(*found);
      limit_ = format_->TotalBytes(choice) + budget - found->bytes;
      return choice;
    }
    limit_ = *options_.size;
    // What else is in the files depends a little on the choice.
    int64_t budget = limit_;
    std::optional<TypeChoice> best;
    constexpr int kRounds = 8;
    for (int round = 0; round < kRounds; ++round) {
      StatusOr<TypeChoice> found = ChooseTypes(items, budget);
      if (!found.ok() && best) break;
      if (!found.ok()) return TooSmall(found.status());
      const int64_t others = format_->TotalBytes(spread(*found)) - found->bytes;
      const int64_t room = limit_ - others;
      const bool fits = found->bytes <= room, settled = fits && room <= budget;
      if (fits && (!best || found->distortion < best->distortion)) best = *std::move(found);
      if (settled) break;
      budget = fits ? room : std::min(budget - 1, room);
    }
    if (!best) return absl::InternalError("the size of the files does not settle");
    Keep(items, *best);
    return spread(*best);
  }

  Status TooSmall(const Status& status) const {
    Choice least;
    for (const ExportMatrix& matrix : format_->matrices()) {
      const WeightType* best = matrix.types[0];
      for (const WeightType* type : matrix.types) {
        if (type->Bytes(matrix.rows, matrix.columns) < best->Bytes(matrix.rows, matrix.columns)) {
          best = type;
        }
      }
      least.push_back(best);
    }
    if (!absl::IsInvalidArgument(status)) return status;
    return absl::InvalidArgumentError(
        absl::StrCat(options_.bits ? absl::StrFormat("--bits %g", *options_.bits)
                                   : absl::StrCat("--size ", FormatBytes(*options_.size)),
                     " is too small for --format ", format_->name(), ": the least is ",
                     FormatBytes(format_->TotalBytes(least)), " (", BitsOf(least),
                     " bits a weight); ask for more, or for other types with --menu"));
  }

  void Keep(const std::vector<TypeOptions>& items, const TypeChoice& found) {
    const TypeSteps steps = StepsFrom(items, found);
    report_.least_step_bytes = steps.least;
    report_.most_step_bytes = steps.most;
    report_.log2_lambda = found.log2_lambda;
    report_.predicted_distortion = found.distortion;
  }

  // Bits a weight of the matrices that have a choice.
  double BitsOf(const Choice& choice) const {
    double bytes = 0, weights = 0;
    for (size_t i = 0; i < choice.size(); ++i) {
      const ExportMatrix& matrix = format_->matrices()[i];
      if (!HasGrids(matrix)) continue;
      bytes += static_cast<double>(choice[i]->Bytes(matrix.rows, matrix.columns));
      weights += static_cast<double>(matrix.rows * matrix.columns);
    }
    return weights > 0 ? 8 * bytes / weights : 0;
  }

  // One type wherever it can be; elsewhere the smallest that is no smaller, else the largest. Where
  // it can be nowhere, what the format has in its place.
  StatusOr<Choice> Uniform(const std::string& name) const {
    const WeightType* asked = nullptr;
    std::vector<std::string> known;
    for (const ExportMatrix& matrix : format_->matrices()) {
      for (const WeightType* type : matrix.types) {
        if (type->name() == name) asked = type;
        if (std::find(known.begin(), known.end(), type->name()) == known.end()) {
          known.push_back(type->name());
        }
      }
    }
    if (asked == nullptr && options_.format_options.menu.empty()) {  // nothing else is on the menu
      Choice choice;
      for (const ExportMatrix& matrix : format_->matrices()) choice.push_back(matrix.types[0]);
      return choice;
    }
    if (asked == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--uniform ", name, " is no type that a matrix of this model can have; types are ",
          absl::StrJoin(known, ", ")));
    }
    return UniformOf(*asked);
  }

  Choice UniformOf(const WeightType& asked) const {
    constexpr int64_t kMany = 1 << 20;  // columns of any block
    const auto bits = [&](const WeightType& type) {
      return static_cast<double>(type.Bytes(1, kMany));
    };
    Choice choice;
    for (const ExportMatrix& matrix : format_->matrices()) {
      const WeightType* best = nullptr;
      const WeightType* largest = matrix.types[0];
      for (const WeightType* type : matrix.types) {
        if (type == &asked) best = type;
        if (bits(*type) > bits(*largest)) largest = type;
      }
      for (const WeightType* type : matrix.types) {
        if (best == &asked || bits(*type) < bits(asked)) continue;
        if (best == nullptr || bits(*type) < bits(*best)) best = type;
      }
      choice.push_back(best != nullptr ? best : largest);
    }
    return choice;
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

  Status WriteTo(const std::string& folder, const Choice& choice) {
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
    phase.Done(absl::StrFormat("%.4f bits a weight", BitsOf(choice)));
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
  Status CompareWithUniform(Choice& choice) {
    Choice best;
    const WeightType* name = nullptr;
    for (const ExportMatrix& matrix : format_->matrices()) {
      for (const WeightType* type : matrix.types) {
        if (type->dense()) continue;
        Choice uniform = UniformOf(*type);
        const int64_t bytes = format_->TotalBytes(uniform);
        if (bytes > limit_ || (!best.empty() && bytes <= format_->TotalBytes(best))) continue;
        best = std::move(uniform);
        name = type;
      }
    }
    if (best.empty() || best == choice) return absl::OkStatus();
    const std::vector<double> measured = measured_;
    const std::string folder = output_->folder() + "/uniform";
    std::error_code error;
    if (!fs::create_directory(folder, error)) {
      return absl::InternalError(absl::StrCat("cannot create ", folder, ": ", error.message()));
    }
    CVXQ_RETURN_IF_ERROR(WriteTo(folder, best));
    CVXQ_ASSIGN_OR_RETURN(const double kl, Divergence(folder));
    report_.uniform = name->name();
    report_.uniform_bytes = format_->TotalBytes(best);
    report_.uniform_kl = kl;
    if (kl >= *report_.kl) {
      fs::remove_all(folder, error);
      measured_ = measured;
      return absl::OkStatus();
    }
    progress_.Note(
        absl::StrFormat("%s everywhere measured better (KL %.3g) than the types chosen (%.3g): it "
                        "is what is written",
                        name->name(), kl, *report_.kl));
    report_.fell_back = true;
    report_.least_step_bytes = report_.most_step_bytes = 0;
    std::swap(*report_.kl, *report_.uniform_kl);
    choice = best;
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

  StatusOr<ExportReport> Publish(const Choice& choice) {
    report_.output = options_.output;
    report_.format = format_->name();
    report_.calibration = calibration_.description;
    report_.asked_bytes = options_.size;
    report_.bits_per_weight = BitsOf(choice);
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
  std::vector<std::vector<double>> distortion_;  // by matrix and type, nats a token
  int64_t limit_ = 0;                            // bytes of all files that were asked for
  std::vector<double> measured_;                 // of each matrix as it was written last
  Stopwatch watch_;
  ExportReport report_;
};

}  // namespace

StatusOr<ExportReport> Export(const ExportOptions& options, Progress& progress) {
  return Exporter(options, progress).Run();
}

nlohmann::ordered_json ExportReport::ToJson() const {
  nlohmann::ordered_json json;
  json["output"] = output;
  json["format"] = format;
  json["calibration"] = calibration;
  json["file_bytes"] = file_bytes;
  json["asked_bytes"] = asked_bytes ? nlohmann::ordered_json(*asked_bytes) : nullptr;
  json["least_step_bytes"] = least_step_bytes;
  json["most_step_bytes"] = most_step_bytes;
  json["bits_per_weight"] = bits_per_weight;
  json["log2_lambda"] = log2_lambda;
  json["predicted_distortion"] = predicted_distortion;
  json["measured_distortion"] = measured_distortion;
  json["kl"] = kl ? nlohmann::ordered_json(*kl) : nullptr;
  json["uniform"] = nullptr;
  if (uniform_kl) {
    json["uniform"] = {{"type", uniform}, {"file_bytes", *uniform_bytes}, {"kl", *uniform_kl}};
  }
  json["fell_back"] = fell_back;
  json["notes"] = notes;
  for (const auto& [phase, time] : seconds) json["seconds"][phase] = time;
  json["sha256"] = sha256;
  json["matrices"] = nlohmann::ordered_json::array();
  for (const Matrix& matrix : matrices) {
    json["matrices"].push_back({{"name", matrix.name},
                                {"type", matrix.type},
                                {"rows", matrix.rows},
                                {"columns", matrix.columns},
                                {"bytes", matrix.bytes},
                                {"predicted_distortion", matrix.predicted_distortion},
                                {"measured_distortion", matrix.measured_distortion}});
    if (!matrix.fallback.empty()) json["matrices"].back()["fallback"] = matrix.fallback;
  }
  return json;
}

}  // namespace cvxq
