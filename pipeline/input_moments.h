// The forward statistics: second moments of the inputs of every linear (H_I), factored for error
// feedback, and their means. Block by block: all calibration sequences go through one block before
// the next, so that only one block's moments are in memory; factors and activations are kept in a
// SpillStore.
#ifndef CVXQ_PIPELINE_INPUT_MOMENTS_H_
#define CVXQ_PIPELINE_INPUT_MOMENTS_H_

#include <array>
#include <functional>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/gradients.h"
#include "pipeline/stage_place.h"
#include "quant/curvature.h"
#include "quant/rounder.h"
#include "storage/spill_store.h"

namespace cvxq {

// What is kept of one input of one block.
struct InputMoments {
  std::vector<float> diagonal;     // of H_I = E[x x^T], [N], in the order of the columns
  std::vector<float> mean;         // E[x], [N]; weighted as H_I is, where `centered`
  std::vector<float> conditional;  // D_I [N], in the order of the columns; if factored
  std::vector<int32_t> order;      // of the factor
  double damping = 0;
  bool centered = false;          // the factor is of the covariance: biases take up the means
  SpillStore::Handle lower = -1;  // the strict lower triangle of L, rows joined
};

using ModelMoments = std::vector<std::array<InputMoments, kInputCount>>;  // by block and input

// What each token counts in H_I, by block and input: [tokens], mean 1; tokens beyond count 1, all
// do where it is empty.
using TokenWeights = std::vector<std::array<std::vector<float>, kInputCount>>;

// Weights by the squared gradient of what the tokens' inputs become: the Kronecker factor of
// E[|g|^2 x x^T], which holds tokens that matter for more. `gradients` are of the first sequences,
// with token squares.
TokenWeights WeighTokens(const ModelGradients& gradients);

// Whether all linears that read an input have a bias, which can take up the input's mean.
bool BiasesTakeMean(const ArchSpec& spec, InputId input);

struct MomentOptions {
  bool factor = true;  // factor H_I (needed by feedback)
  WorkOrder order = WorkOrder::kLeastFirst;
  double damping = 0.01;  // of the mean of the diagonal
  // Factor E[(x - m)(x - m)^T], m the mean, where all linears that read x have a bias: a bias that
  // is corrected after coding, b - (W_hat - W) m, makes the best of any error along m.
  bool center = false;
  const TokenWeights* weights = nullptr;
  // Blocks that have moments here already are run through, but not measured again.
  const ModelMoments* known = nullptr;
  // Told of each other block as soon as its moments are there.
  std::function<void(int64_t block, const std::array<InputMoments, kInputCount>& moments)> finished;
  // Blocks that each wave runs through before the next wave: with more than one, stages work at the
  // same time, and the moments of so many blocks are in memory.
  int64_t blocks_at_once = 1;
};

// Runs all samples through the model's blocks, or a replica's through a stage's; moments are those
// of the blocks that the stage owns (others are empty). The same for any number of threads, stages,
// replicas and blocks at once. Errors: weights, factorisation (naming the block),
// disk, interruption, a neighbour that failed.
StatusOr<ModelMoments> CollectInputMoments(Model& model, const CalibrationSet& calibration,
                                           const MomentOptions& options, ThreadPool& pool,
                                           Rounder& rounder, SpillStore& store,
                                           Progress::Phase& progress,
                                           const StagePlace* place = nullptr);

// Reads a factor back.
StatusOr<CurvatureFactor> LoadFactor(const InputMoments& moments, const SpillStore& store);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_INPUT_MOMENTS_H_
