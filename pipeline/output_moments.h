// The second moments of output gradients (H_O), factored for two-sided error feedback.
#ifndef CVXQ_PIPELINE_OUTPUT_MOMENTS_H_
#define CVXQ_PIPELINE_OUTPUT_MOMENTS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/arch_spec.h"
#include "pipeline/gradients.h"
#include "pipeline/stage_place.h"
#include "quant/feedback.h"
#include "quant/rounder.h"
#include "storage/spill_store.h"

namespace cvxq {

// What is kept of one linear.
struct OutputMoments {
  int64_t block = 0;               // rows of each block of H_O; the last may have fewer
  std::vector<int32_t> order;      // [M]: W's row in each place, block after block
  std::vector<float> conditional;  // D_O [M], in the order of the rows; zeros: no gradient at all
  double trace = 0;                // of H_O
  double damping = 0;              // largest of the blocks', beyond the shrinkage
  SpillStore::Handle lower = -1;   // the strict lower triangles of the blocks' L, rows joined
};

using ModelOutputs = std::vector<std::array<OutputMoments, kLinearCount>>;

// Rows of the blocks in which H_O of all linears together takes at most `memory` bytes: `unit`
// times a power of two, or all rows of the widest linear where everything fits.
int64_t OutputBlockRows(const ArchSpec& spec, int64_t memory, int64_t unit);

// The order of work of rows [first, first + diagonal.size()) of a linear, W's row in each place,
// given the diagonal of H_O of these rows. NaN may be among them.
using RowOrder = std::function<std::vector<int32_t>(int64_t block, LinearId id, int64_t first,
                                                    std::span<const float> diagonal)>;

// Factors every H_O of these blocks with shrinkage: (1 - s) H_O + s tr(H_O) / M I. The moments in
// `gradients` are given up. Errors: factorisation (naming the linear), disk.
StatusOr<ModelOutputs> FactorOutputMoments(const ArchSpec& spec, BlockRange blocks,
                                           int64_t block_rows, double shrinkage,
                                           const RowOrder& order, ModelGradients& gradients,
                                           ThreadPool& pool, Rounder& rounder, SpillStore& store);

// Reads the factors back.
StatusOr<std::vector<RowBlock>> LoadRowBlocks(const OutputMoments& moments,
                                              const SpillStore& store);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_OUTPUT_MOMENTS_H_
