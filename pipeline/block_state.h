// The statistics of one block, and the codes of a linear, as they are kept in a job's state
// (job_state.h), and read back.
#ifndef CVXQ_PIPELINE_BLOCK_STATE_H_
#define CVXQ_PIPELINE_BLOCK_STATE_H_

#include <array>

#include "model/arch_spec.h"
#include "pipeline/gradients.h"
#include "pipeline/input_moments.h"
#include "pipeline/linear_plan.h"
#include "pipeline/output_moments.h"
#include "storage/archive.h"
#include "storage/spill_store.h"

namespace cvxq {

using BlockGradients = std::array<LinearGradients, kLinearCount>;
using BlockInputs = std::array<InputMoments, kInputCount>;
using BlockOutputs = std::array<OutputMoments, kLinearCount>;

// Each writes one block's part; factors are read from and put into `store`. Readers give kDataLoss
// for what is damaged; that it fits the model is checked by size alone.
Status SaveGradients(const BlockGradients& gradients, ArchiveWriter& writer);
Status LoadGradients(ArchiveReader& reader, BlockGradients& gradients);
Status SaveOutputs(const BlockOutputs& outputs, const SpillStore& store, ArchiveWriter& writer);
Status LoadOutputs(ArchiveReader& reader, SpillStore& store, BlockOutputs& outputs);
Status SaveInputs(const BlockInputs& inputs, const SpillStore& store, ArchiveWriter& writer);
Status LoadInputs(ArchiveReader& reader, SpillStore& store, BlockInputs& inputs);

// What a plan has "from coding", apart from it so that it can be read before it is used.
struct LinearState {
  std::vector<uint8_t> packed;
  std::vector<float> bias;
  int64_t code_bytes = 0;
  double zero_weights = 0, distortion = 0;
  std::vector<int64_t> depth_histogram;

  void MoveTo(LinearPlan& plan) &&;
};
Status SaveLinear(const LinearPlan& plan, ArchiveWriter& writer);
Status LoadLinear(ArchiveReader& reader, LinearState& linear);

// About how many bytes each takes.
int64_t StateBytes(const BlockGradients& gradients);
int64_t StateBytes(const BlockOutputs& outputs, const SpillStore& store);
int64_t StateBytes(const BlockInputs& inputs, const SpillStore& store);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_BLOCK_STATE_H_
