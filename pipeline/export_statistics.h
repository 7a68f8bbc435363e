// The curvature of every matrix that an export codes: of the linears as a quantised model's
// (two-sided), of the token table and the head by themselves (table_moments.h).
#ifndef CVXQ_PIPELINE_EXPORT_STATISTICS_H_
#define CVXQ_PIPELINE_EXPORT_STATISTICS_H_

#include <memory>
#include <optional>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/export_format.h"
#include "formats/grid_coder.h"
#include "pipeline/calibration.h"
#include "pipeline/gradients.h"
#include "pipeline/input_moments.h"
#include "pipeline/model_files.h"
#include "pipeline/output_moments.h"
#include "pipeline/table_moments.h"
#include "storage/spill_store.h"

namespace cvxq {

struct ExportStatisticsOptions {
  double damping = 0.01, shrinkage = 0.1;
  uint64_t seed = 0;
  int64_t memory = 0;   // bytes for the model and the largest sums
  bool tables = false;  // whether the token table or the head has a choice of types
};

// What coding a matrix takes; outlives the GridInput made of it.
struct MatrixCurvature {
  CurvatureFactor inputs;
  std::vector<RowBlock> blocks;   // none: rows are independent
  std::vector<float> row_weight;  // [M], so that 1/2 sum row D_I err^2 is in nats a token

  GridInput Input(const float* w, int64_t rows, int64_t columns) const {
    return {.w = w,
            .rows = rows,
            .columns = columns,
            .inputs = &inputs,
            .blocks = blocks,
            .row_weight = row_weight};
  }
};

class ExportStatistics {
 public:
  // Two passes over the calibration set, and a third, shorter one with `tables`. `store` outlives
  // the result. The same for any number of threads. Errors: weights, gradients that are not finite,
  // factorisation, disk, interruption.
  static StatusOr<std::unique_ptr<ExportStatistics>> Collect(const ModelFiles& files,
                                                             const CalibrationSet& calibration,
                                                             const ExportStatisticsOptions& options,
                                                             Backend& backend, ThreadPool& pool,
                                                             SpillStore& store, Progress& progress);

  StatusOr<MatrixCurvature> Of(const ExportMatrix& matrix) const;

 private:
  ExportStatistics(const ModelFiles& files, const SpillStore& store)
      : files_(files), store_(store) {}

  const ModelFiles& files_;
  const SpillStore& store_;
  ModelGradients gradients_;
  ModelOutputs outputs_;
  ModelMoments inputs_;
  std::optional<TablesMoments> tables_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_EXPORT_STATISTICS_H_
