// Tuning after coding: the parameters that stay unquantised - norms, and the biases of linears -
// are fitted to the coded matrices, so that the model's output comes nearer to the original's.
// Costs no bytes. docs/math.md has the recipe.
#ifndef CVXQ_PIPELINE_TUNE_H_
#define CVXQ_PIPELINE_TUNE_H_

#include <cstdint>
#include <vector>

#include "base/progress.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/job_state.h"
#include "pipeline/model_coder.h"
#include "storage/spill_store.h"

namespace cvxq {

struct TuneContext {
  int64_t epochs = 0;  // over the calibration sequences
  uint64_t seed = 0;   // of their order
  const ArchSpec& spec;
  const WeightSource& original;
  const CalibrationSet& calibration;
  const ModelCoder& coder;
  ModelOptions memory;  // for one model at a time
  Backend& backend;
  SpillStore& store;
  Progress& progress;
  // What was coded; take the tuned parameters.
  std::vector<LinearPlan>& plans;
  PackedWriter& writer;
  // Where to keep how far it has come, about so often and after each epoch; nullptr: nowhere.
  JobState* state = nullptr;
  double save_seconds = 0;
};

// Goes on from what is kept of the same job, tunes, and hands the parameters to plans and writer.
// Where they are no better on the calibration sequences than they were, they stay as they were. The
// same result for any number of threads. Errors: reading weights, a divergence that is not finite
// (kDataLoss), interruption, a full disk. What cannot be kept, or read back, is no error: progress
// has a note of it.
Status TuneParameters(const TuneContext& context);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_TUNE_H_
