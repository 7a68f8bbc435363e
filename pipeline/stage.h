// What is known of the blocks of one stage, and the steps of a job on them: gradients, moments,
// coding. The steps of all stages of a model run at the same time, each in its own thread or
// process; neighbours wait for one another at their boundaries.
#ifndef CVXQ_PIPELINE_STAGE_H_
#define CVXQ_PIPELINE_STAGE_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/block_coder.h"
#include "pipeline/calibration.h"
#include "pipeline/entropy_rate.h"
#include "pipeline/job_state.h"
#include "pipeline/model_coder.h"
#include "pipeline/model_files.h"
#include "pipeline/quantize.h"
#include "pipeline/save_clock.h"
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
  std::string numerics_class;  // of the backends of all its stages
  std::string spill_folder;
  JobState* state = nullptr;  // where to keep what is done; nullptr: nowhere
  double save_seconds = 0;    // how often, while a step is under way
  // Of a model that is not cut, for its only stage: the coder (else: that of `entropy`), and the
  // plans of the whole model, to be filled in place.
  ModelCoder* coder = nullptr;
  std::vector<LinearPlan>* plans = nullptr;
};

// A pass for gradients after the first.
struct GradientPass {
  GradientOptions options;
  const WeightSource& weights;
  // 0: group sums, which codecs ask for. Others: those or member sums, averaged with what is there.
  int64_t iteration = 0;
};

// What the head costs, in blocks.
double HeadBlocks(const ArchSpec& spec);

// [begin, end) of the blocks of each of at most `stages` stages, none empty: the cut of least cost
// for the most expensive one, where all blocks cost the same and the last stage has also the head.
std::vector<BlockRange> CutStages(const ArchSpec& spec, int64_t stages);

// Used from one thread at a time.
class Stage {
 public:
  // `threads`, `memory` bytes and the backend are for this stage alone.
  Stage(const StageJob& job, const StagePlace& place, int threads, int64_t memory,
        std::unique_ptr<Backend> backend);

  // Begins behind what is in the job's state, or from the start. kDataLoss where it is not there;
  // codes are looked for when they are needed.
  Status Restore(const JobPosition& position);

  // Errors: as CollectGradients and FactorOutputMoments. `cuts` may be nullptr.
  Status Gradients(Progress::Phase& progress, WaveCuts* cuts);
  Status Moments(Progress::Phase& progress);
  // Of a model that is not cut.
  Status MoreGradients(const GradientPass& pass, int64_t step, Progress::Phase& progress,
                       WaveCuts* cuts);
  Status LoadAverages(int64_t step);
  // Its part of an order, the job's step of this number: the blocks that it owns, in their order.
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, int64_t step, Progress::Phase& phase);
  // Has all codes here, and biases corrected to them.
  Status Finish(const EntropyTables* tables);

  // Saves what the steps until this one have made and is not saved yet.
  Status Save(int64_t step);

  const BlockRange& blocks() const { return place_.blocks; }
  std::vector<LinearPlan>& plans() { return plans_; }  // of the blocks that it owns
  const StageContext& context() const { return context_; }
  // The largest that a factorisation took.
  double output_damping() const;
  double input_damping() const;

 private:
  class Saves;
  StatusOr<std::unique_ptr<Model>> LoadModel(const WeightSource& weights);
  Status Plan();
  BlockCoder& Coder();
  Status RestoreBlock(const JobPosition& position, int64_t block);
  Status SaveStatistics(int64_t block, BlockPart part);
  Status SaveAverages();
  Status SaveCodes();
  Status LoadMoments(int64_t block);
  Status LoadCodes();
  bool LoadCoded(int64_t block, int64_t step, EntropyAnswer& answer);
  std::vector<float>& Averaged(LinearPlan& plan);
  void KeepWhatIsDone(const std::function<Status()>& save);

  const StageJob& job_;
  const StagePlace place_;
  const int64_t memory_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Rounder> rounder_;
  SpillStore store_;
  std::vector<LinearPlan> own_plans_;
  std::vector<LinearPlan>& plans_;
  ModelGradients gradients_;
  ModelMoments inputs_;
  ModelOutputs outputs_;
  const StageContext context_;         // of the above
  std::unique_ptr<BlockCoder> coder_;  // once something was coded

  JobPosition begin_;                              // that Restore was for
  std::map<int64_t, std::vector<int64_t>> coded_;  // steps whose codes are in the state, by block
  std::map<int64_t, int64_t> to_load_;  // blocks whose codes are there alone, and the step
  std::map<int64_t, int64_t> unsaved_;  // blocks with codes that are not, and the step
  std::set<std::pair<int64_t, BlockPart>> saved_;  // statistics that are in the state
  int64_t unsaved_averages_ = 0;                   // of this step
  bool keeps_ = false;                             // as it goes along
  SaveClock clock_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_STAGE_H_
