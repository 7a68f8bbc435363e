// What is known and decided about each linear while a model is quantised.
#ifndef CVXQ_PIPELINE_LINEAR_PLAN_H_
#define CVXQ_PIPELINE_LINEAR_PLAN_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "model/arch_spec.h"
#include "pipeline/gradients.h"
#include "pipeline/input_moments.h"
#include "pipeline/output_moments.h"
#include "quant/dual_ascent.h"
#include "quant/groups.h"
#include "storage/checkpoint.h"
#include "storage/spill_store.h"

namespace cvxq {

struct LinearPlan {
  int64_t index = 0;  // among the plans of the whole model
  int64_t block = 0;
  LinearId id{};
  std::string name;  // without ".weight"
  int64_t rows = 0, columns = 0;

  // From the gradients.
  GroupLayout layout;
  std::vector<float> row_gradient;    // a_k [clusters]: mean of a_r over the cluster
  std::vector<float> group_gradient;  // G^2 [clusters, lines]; where a codec asks for it
  // From the weights.
  std::vector<float> variance;     // S^2 [clusters, lines] about the mean
  std::vector<float> mean_square;  // [clusters, lines] about zero
  // From the allocation.
  std::vector<float> log2_importance;
  std::vector<uint8_t> depth;
  // From coding.
  std::string_view suffix;      // of the tensor that takes the place of the weight (model_files.h)
  std::vector<uint8_t> packed;  // its bytes, where they are on this machine
  int64_t packed_bytes = 0;     // their number
  std::vector<float> bias;      // new bias [M], where bias correction made one
  int64_t code_bytes = 0;       // of `packed`, codes only
  double zero_weights = 0;      // weights that became zero
  double distortion = 0;        // predicted: nats of KL a token
  std::array<int64_t, kMaxDepth + 1> depth_histogram{};  // weights at each depth

  void SetPacked(std::vector<uint8_t> bytes) {
    packed = std::move(bytes);
    packed_bytes = static_cast<int64_t>(packed.size());
  }
};

// One plan for each linear of each block, in order.
std::vector<LinearPlan> MakePlans(const ArchSpec& spec);

// Neighbours [begin, end) in the list that read the same input and share its factor.
std::vector<std::pair<size_t, size_t>> InputRuns(std::span<const LinearPlan> plans);

// The weights of a plan's linear as floats [M, N]; kDataLoss with its name if not finite.
StatusOr<std::vector<float>> ReadWeights(const Checkpoint& checkpoint, const LinearPlan& plan);

// The linear's bias (zeros where it has none) less what coding adds at the mean input: b -
// (W_hat - W) m, given W, W_hat [M, N] and m [N].
StatusOr<std::vector<float>> CorrectedBias(const Checkpoint& checkpoint, const LinearPlan& plan,
                                           const std::vector<float>& w,
                                           const std::vector<float>& decoded,
                                           const std::vector<float>& mean_input);

// Clusters the members by variance x mean squared gradient, and takes moments of the groups.
// `run`: only members of one run of so many are put together (0: all).
Status PlanGroups(const Checkpoint& checkpoint, const ModelGradients& gradients,
                  Partition partition, int64_t cluster_size, int64_t run, ThreadPool& pool,
                  std::vector<LinearPlan>& plans);

// The curvature of each row's errors that all its weights share, a_r [M]: D_O where H_O is
// factored, else F summed over the row, by the trace of H_I (whose factors must be there).
std::vector<float> RowCurvature(const LinearPlan& plan, const ModelGradients& gradients,
                                const ModelMoments& inputs, const ModelOutputs& outputs);

// Fills row_gradient: the mean of a_r over each cluster.
void PlanRowGradients(const ModelGradients& gradients, const ModelMoments& inputs,
                      const ModelOutputs& outputs, std::vector<LinearPlan>& plans);

// How importance is made.
enum class ImportanceKind : uint8_t {
  kGroup,        // group_gradient x variance
  kGroupSquare,  // group_gradient x mean_square
  kFeedback,     // quant/importance.h, from row_gradient and the factors
};

// Fills log2_importance from the depths of the last allocation (none at first). With `average` it
// is the mean with what was there, so that repeated allocation under feedback settles instead of
// swinging.
Status PlanImportance(ImportanceKind kind, bool average,
                      const std::array<double, kMaxDepth + 1>& distortion,
                      const ModelMoments& moments, const SpillStore& store, ThreadPool& pool,
                      std::vector<LinearPlan>& plans);

// Solves for the depths of all plans and stores them.
Allocation PlanDepths(const DepthModel& model, int64_t budget_bits, std::vector<LinearPlan>& plans);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_LINEAR_PLAN_H_
