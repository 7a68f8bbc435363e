// The gradient statistics: squared gradients of the model's output distortion with respect to every
// weight, summed by member (for clustering) or by group (for allocation), and second moments of
// output gradients (H_O). A few backward passes on the original model (docs/math.md).
#ifndef CVXQ_PIPELINE_GRADIENTS_H_
#define CVXQ_PIPELINE_GRADIENTS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/stage_place.h"
#include "quant/groups.h"
#include "storage/spill_store.h"

namespace cvxq {

// What is differentiated: the KL divergence to the original model, or the squared error of the
// final hidden states along their principal components (the papers' objective).
enum class Objective : uint8_t { kFisher, kHidden };

// How its curvature is sampled (docs/math.md has the equations):
//   labels  one label a token drawn from the model's own distribution, one backward pass a sequence
//           (fisher only)
//   signs   as labels (fisher), or the sequence's principal component (hidden), each token with an
//           independent random sign: one backward pass a sequence
//   tokens  the papers': one backward pass for each of a few strided tokens
enum class Estimator : uint8_t { kLabels, kSigns, kTokens };

struct GradientOptions {
  Objective objective = Objective::kFisher;
  Estimator estimator = Estimator::kLabels;
  int64_t first_sample = 0, samples = 32;  // of the calibration set
  int64_t stride = 0;                      // of kTokens; 0: seq_len / 17, at least 1
  uint64_t seed = 0;
  int64_t components = 0;  // principal components of kHidden; 0: as many as samples
};

// One linear's sums, divided by the number of tokens: estimates of the diagonal curvature F in nats
// a token (kFisher): D ~ 1/2 sum F E^2.
struct LinearGradients {
  std::vector<float> member;  // [members]: sum of F over the lines
  std::vector<float> group;   // [clusters, lines]: mean of F over the group; if layouts given
  std::vector<float> output_moment;  // H_O in blocks [ceil(M/b), b, b]; if asked for
  std::vector<float> token_square;   // |g_t|^2 of each token [samples * T]; if asked for
};

// By block and linear; absent linears are empty.
using ModelGradients = std::vector<std::array<LinearGradients, kLinearCount>>;
using ModelLayouts = std::vector<std::array<GroupLayout, kLinearCount>>;

// What to collect. Members always refer to `partition`.
struct GradientRequest {
  Partition partition = Partition::kColumns;
  const ModelLayouts* layouts = nullptr;  // given: group sums in place of member sums
  int64_t output_block = 0;               // b of output_moment; 0: none; M or more: whole
  bool token_squares = false;
};

// Where sums of the first waves are kept, for whoever goes on with them after a crash. Called from
// the thread that collects.
class GradientSaves {
 public:
  virtual ~GradientSaves() = default;
  // How many waves are in the sums that Load gives; 0: Load is not called.
  virtual int64_t first_wave() const = 0;
  // The sums of a block, not divided by anything yet, as Save was given them: so many.
  virtual StatusOr<std::vector<std::array<LinearGradients, kLinearCount>>> Load(int64_t block,
                                                                                size_t count) = 0;
  // So many waves are in the sums now, and not all yet: whether to save them.
  virtual bool Wanted(int64_t waves) = 0;
  // Those of subtrees of parts (replicas.h), and last of the part under way, with the squares of
  // all tokens until now.
  virtual void Save(int64_t waves, int64_t block,
                    const std::vector<std::array<LinearGradients, kLinearCount>>& sums) = 0;
  // Those of all blocks have been given to Save.
  virtual void Saved(int64_t waves) = 0;
};

// Of all blocks, or of those that a stage owns (others are empty, but for token_square of all that
// it runs through; `place`: kFisher, not kTokens). The same result for any number of threads,
// stages and replicas. Sums of parts of the waves are kept in `store` (nullptr: in memory). `saves`
// is for one replica. Errors: weights that cannot be read, gradients that are not finite (kDataLoss
// naming block and linear), disk, interruption, a neighbour that failed.
StatusOr<ModelGradients> CollectGradients(Model& model, const CalibrationSet& calibration,
                                          const GradientOptions& options,
                                          const GradientRequest& request, Progress::Phase& progress,
                                          const StagePlace* place = nullptr,
                                          SpillStore* store = nullptr,
                                          GradientSaves* saves = nullptr);

// The principal components of the final hidden states of the calibration tokens, those of largest
// variance first: float [components, E].
StatusOr<std::vector<float>> HiddenComponents(Model& model, const CalibrationSet& calibration,
                                              const GradientOptions& options);

// Sequences of one wave: as many as make about 4096 tokens.
int64_t WaveSequences(int64_t seq_len);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_GRADIENTS_H_
