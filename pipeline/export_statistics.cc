#include "pipeline/export_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pipeline/linear_plan.h"
#include "pipeline/stages.h"

namespace cvxq {
namespace {

constexpr int64_t kTableSamples = 32;  // sequences of the pass for the tables

// Of rows as of columns: on grids of one width the largest should carry no errors of others.
std::vector<int32_t> LargestRowsFirst(int64_t first, std::span<const float> diagonal) {
  std::vector<int32_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int32_t i) { return std::isfinite(diagonal[i]) ? diagonal[i] : 0.0f; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return key(a) < key(b); });
  for (int32_t& row : order) row += static_cast<int32_t>(first);
  return order;
}

}  // namespace

StatusOr<std::unique_ptr<ExportStatistics>> ExportStatistics::Collect(
    const ModelFiles& files, const CalibrationSet& calibration,
    const ExportStatisticsOptions& options, Backend& backend, ThreadPool& pool, SpillStore& store,
    Progress& progress) {
  const ArchSpec& spec = files.spec;
  std::unique_ptr<ExportStatistics> result(new ExportStatistics(files, store));
  const ModelOptions memory{.resident_bytes = options.memory / 2};
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                        Model::Load(spec, *files.weights, memory, backend));
  const std::unique_ptr<Rounder> rounder = MakeRounder(backend, pool);
  const GradientOptions gradients{.samples = calibration.samples, .seed = options.seed};
  {
    const int64_t block = OutputBlockRows(spec, options.memory / 2, 64);
    auto phase = progress.Start("gradients", calibration.samples, "sequences");
    CVXQ_ASSIGN_OR_RETURN(result->gradients_,
                          CollectGradients(*model, calibration, gradients,
                                           {.output_block = block, .token_squares = true}, phase));
    const auto order = [](int64_t, LinearId, int64_t first, std::span<const float> diagonal) {
      return LargestRowsFirst(first, diagonal);
    };
    CVXQ_ASSIGN_OR_RETURN(result->outputs_,
                          FactorOutputMoments(spec, {0, spec.layers}, block, options.shrinkage,
                                              order, result->gradients_, pool, *rounder, store));
    phase.Done();
  }
  {
    auto phase = progress.Start("input moments", spec.layers, "blocks");
    const TokenWeights weights = WeighTokens(result->gradients_);
    CVXQ_ASSIGN_OR_RETURN(result->inputs_, CollectInputMoments(*model, calibration,
                                                               {.order = WorkOrder::kLargestFirst,
                                                                .damping = options.damping,
                                                                .weights = &weights},
                                                               pool, *rounder, store, phase));
    phase.Done();
    double damping = 0;
    for (const auto& block : result->inputs_) {
      for (const InputMoments& moments : block) damping = std::max(damping, moments.damping);
    }
    NoteInputDamping(damping, options.damping, progress);
  }
  if (options.tables) {
    GradientOptions few = gradients;
    few.samples = std::min(few.samples, kTableSamples);
    auto phase = progress.Start("tables", few.samples, "sequences");
    CVXQ_ASSIGN_OR_RETURN(result->tables_, CollectTableMoments(*model, calibration, few, phase));
    phase.Done();
  }
  return result;
}

StatusOr<MatrixCurvature> ExportStatistics::Of(const ExportMatrix& matrix) const {
  MatrixCurvature curvature;
  if (matrix.role == ExportMatrix::Role::kLinear) {
    const auto id = static_cast<int>(matrix.id);
    const OutputMoments& outputs = outputs_[matrix.block][id];
    CVXQ_ASSIGN_OR_RETURN(
        curvature.inputs,
        LoadFactor(inputs_[matrix.block][static_cast<int>(InputOf(matrix.id))], store_));
    CVXQ_ASSIGN_OR_RETURN(curvature.blocks, LoadRowBlocks(outputs, store_));
    LinearPlan plan;
    plan.block = matrix.block;
    plan.id = matrix.id;
    curvature.row_weight = RowCurvature(plan, gradients_, inputs_, outputs_);
    return curvature;
  }
  const TableMoments& table =
      matrix.role == ExportMatrix::Role::kHead ? tables_->head : tables_->embedding;
  constexpr double kDamping = 0.01;
  CVXQ_ASSIGN_OR_RETURN(curvature.inputs, FactorCurvature(table.column, matrix.columns, kDamping,
                                                          WorkOrder::kLargestFirst));
  curvature.row_weight = table.row;
  return curvature;
}

}  // namespace cvxq
