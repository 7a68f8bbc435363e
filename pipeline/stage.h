// What is known of the blocks of one stage, and the steps of a job on them: gradients, moments,
// coding. The steps of all stages of a model run at the same time, each in its own thread or
// process; neighbours wait for one another at their boundaries.
#ifndef CVXQ_PIPELINE_STAGE_H_
#define CVXQ_PIPELINE_STAGE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/calibration.h"
#include "pipeline/entropy_linears.h"
#include "pipeline/entropy_rate.h"
#include "pipeline/model_coder.h"
#include "pipeline/model_files.h"
#include "pipeline/quantize.h"
#include "pipeline/stage_place.h"

namespace cvxq {

// What the stages of a job share. All that is referred to outlives them.
struct StageJob {
  const QuantizeOptions& options;
  const ModelFiles& files;
  const CalibrationSet& calibration;
  StatisticsNeeds needs;
  Feedback feedback = Feedback::kTwo;
  GradientOptions gradients;
  int64_t output_block = 0;  // rows of the blocks of H_O
  DType compute = DType::kF32;
  std::string spill_folder;
};

// What the head costs, in blocks.
double HeadBlocks(const ArchSpec& spec);

// [begin, end) of the blocks of each of at most `stages` stages, none empty: the cut of least cost
// for the most expensive one, where all blocks cost the same and the last stage has also the head.
std::vector<BlockRange> CutStages(const ArchSpec& spec, int64_t stages);

// Used from one thread at a time.
class Stage {
 public:
  // `threads` and `memory` bytes are for this stage alone.
  Stage(const StageJob& job, const StagePlace& place, int threads, int64_t memory);

  // Errors: as CollectGradients and FactorOutputMoments.
  Status Gradients(Progress::Phase& progress);
  Status Moments(Progress::Phase& progress);
  // Its part of an order: the blocks that are its own, in their order.
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase);
  Status CorrectBiases(const EntropyTables& tables);

  const BlockRange& blocks() const { return place_.blocks; }
  std::vector<LinearPlan>& plans() { return plans_; }  // of its blocks
  // The largest that a factorisation took.
  double output_damping() const;
  double input_damping() const;

 private:
  StatusOr<std::unique_ptr<Model>> LoadModel();

  const StageJob& job_;
  const StagePlace place_;
  const int64_t memory_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  SpillStore store_;
  std::vector<LinearPlan> plans_;
  ModelGradients gradients_;
  ModelMoments inputs_;
  ModelOutputs outputs_;
  const StageContext context_;  // of the above
  std::optional<EntropyLinears> linears_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_STAGE_H_
