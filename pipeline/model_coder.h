// How a codec codes a whole model: the part of the pipeline that comes after the statistics and
// differs between the codecs.
#ifndef CVXQ_PIPELINE_MODEL_CODER_H_
#define CVXQ_PIPELINE_MODEL_CODER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/stopwatch.h"
#include "base/thread_pool.h"
#include "pipeline/block_coder.h"
#include "pipeline/linear_plan.h"
#include "pipeline/packed_writer.h"
#include "pipeline/quantize.h"
#include "quant/rounder.h"
#include "storage/checkpoint.h"
#include "storage/spill_store.h"

namespace cvxq {

// What a codec wants to know of the model before it codes.
struct StatisticsNeeds {
  bool gradients = false;                    // squared gradients of every member
  bool group_gradients = false;              // of every group as well
  bool input_factors = false;                // H_I factored
  WorkOrder order = WorkOrder::kLeastFirst;  // of their columns
  bool center = false;  // H_I about the mean where biases can take it up (MomentOptions)
  bool input_means = false;
  bool output_factors = false;  // H_O factored (comes with the gradients)
};

class JobSteps;  // job_steps.h

// The statistics of a model, or of some of its blocks, and all that coding these takes. Referred-to
// objects outlive the coder.
struct StageContext {
  const QuantizeOptions& options;
  const Checkpoint& checkpoint;
  const ArchSpec& spec;
  const ModelGradients& gradients;
  const ModelMoments& inputs;
  const ModelOutputs& outputs;
  const SpillStore& store;
  ThreadPool& pool;
  Rounder& rounder;  // of the stage's backend
  std::vector<LinearPlan>& plans;
};

// What coding the whole model to a size takes. Codes are made by the stages, as the steps say.
struct CodingContext {
  const QuantizeOptions& options;
  const ArchSpec& spec;
  std::vector<LinearPlan>& plans;
  Progress& progress;
  Stopwatch& watch;
  PackedWriter& writer;
  JobSteps& steps;
  const StageContext* whole = nullptr;  // of the only stage of a model that is not cut; same plans

  double quantized_weights() const { return static_cast<double>(spec.quantized_parameters()); }
};

class ModelCoder {
 public:
  virtual ~ModelCoder() = default;

  virtual std::string name() const = 0;  // as --codec has it
  // What feedback the codec will use; an option it has not is kInvalidArgument.
  virtual StatusOr<Feedback> ChooseFeedback(std::optional<Feedback> asked) = 0;
  virtual StatisticsNeeds Needs() const = 0;
  // Cuts the linears into groups, if the codec has any; when the first gradients are known.
  virtual Status Plan(const StageContext& context, int64_t output_block) = 0;
  // The order of work of rows [first, first + rows) for two-sided feedback, W's row in each place,
  // given the diagonal of H_O of these rows.
  virtual std::vector<int32_t> RowOrder(const LinearPlan& plan, int64_t first,
                                        std::span<const float> diagonal) const = 0;
  // What makes codes as Code asks for them. `context` outlives it.
  virtual std::unique_ptr<BlockCoder> Blocks(const StageContext& context) = 0;
  // Has all linears coded to the size asked for: fills what plans have "from coding", and gives the
  // writer the tensors that they share.
  virtual Status Code(CodingContext& context) = 0;
  // The matrix of a plan as it was coded last: W_hat [M, N].
  virtual StatusOr<std::vector<float>> Decoded(const LinearPlan& plan) const = 0;

  double log2_lambda() const { return log2_lambda_; }
  int64_t passes() const { return passes_; }

 protected:
  double log2_lambda_ = 0;
  int64_t passes_ = 0;  // over all linears
};

std::unique_ptr<ModelCoder> MakeGroupedCoder(const QuantizeOptions& options);  // lloyd, companded
std::unique_ptr<ModelCoder> MakeEntropyCoder(const QuantizeOptions& options);  // entropy
std::unique_ptr<ModelCoder> MakeAffineCoder(const QuantizeOptions& options);  // rtn, gptq, awq, owq

// The size asked for, in bytes, and what counts against it.
class SizeTarget {
 public:
  static constexpr double kTolerance = 0.001;  // met within this share, and never exceeded

  explicit SizeTarget(const CodingContext& context);
  int64_t bytes() const { return bytes_; }
  // Slightly below the target: what lies between is lost, what lies above must be done again.
  int64_t aim() const { return bytes_ - static_cast<int64_t>(bytes_ * kTolerance * 0.3); }
  // For the plans as they are coded now.
  int64_t Counted() const;
  bool Met() const;
  // The error for a target that `least` bytes already exceed; `advice` may follow "ask for more".
  Status TooSmall(int64_t least, const std::string& advice) const;
  // Tells of the plans as they are coded now: size_ratio, log2_lambda.
  void Tell(double log2_lambda) const;

 private:
  const CodingContext& context_;
  int64_t bytes_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_MODEL_CODER_H_
