// A codec turns the weights of one linear, with the bit depth of every group decided, into a packed
// matrix. The two of this file share the packed form and differ in how scales, means and codes are
// found.
#ifndef CVXQ_QUANT_CODEC_H_
#define CVXQ_QUANT_CODEC_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/packed_matrix.h"
#include "quant/curvature.h"
#include "quant/feedback.h"
#include "quant/groups.h"
#include "quant/rounder.h"
#include "quant/tables.h"

namespace cvxq {

// One linear to be coded. Everything referred to outlives the call.
struct CodecInput {
  const float* w = nullptr;  // [M, N]
  const GroupLayout* layout = nullptr;
  const std::vector<uint8_t>* depth = nullptr;  // [clusters, lines]
  // Error feedback (feedback.h): the factor of the inputs (nullptr: none between columns), and the
  // blocks of rows with theirs (none: rows are independent). Under kColumns the rows of the blocks
  // are the layout's members in their order, and blocks end where clusters end.
  const CurvatureFactor* inputs = nullptr;
  std::span<const RowBlock> blocks;
  const LevelTables* tables = nullptr;
  int scale_steps = 4;  // of the grid of scales, to an octave
};

// `lloyd`: Lloyd-Max levels, no means, error feedback where factors are given. Under kColumns the
// scale of a group is fitted to what feedback has made of its column when its turn comes; under
// kRows a group's columns are rounded at different times, so its scale is fitted to the original
// weights. Errors: those of the rounder.
StatusOr<PackedMatrix> CodeLloyd(const CodecInput& input, ThreadPool& pool, Rounder& rounder);

// `companded`: the codec of CVXQ (arXiv 2409.02026, sections 3.2 and 3.3): mean and deviation of
// each group, companded levels, then a search over multiples of step and offset for the least
// squared error. No feedback.
PackedMatrix CodeCompanded(const CodecInput& input, ThreadPool& pool);

// What the codecs start from: shape, members, depths and levels of the input, scales of 1, and
// means of 0 where asked for; no codes yet.
PackedMatrix StartPackedMatrix(const CodecInput& input, bool means);

}  // namespace cvxq

#endif  // CVXQ_QUANT_CODEC_H_
