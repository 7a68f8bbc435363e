// A codec turns the weights of one linear, with the bit depth of every group decided, into a packed
// matrix. The two of this file share the packed form and differ in how scales, means and codes are
// found.
//
//   std::unique_ptr<LayerCoder> coder = MakeLloydCoder(options, input);
//   pool.ParallelFor(coder->slabs(), [&](int64_t i) { coder->CodeSlab(i); });
//   PackedMatrix packed = coder->Finish();
#ifndef CVXQ_QUANT_CODEC_H_
#define CVXQ_QUANT_CODEC_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/packed_matrix.h"
#include "quant/curvature.h"
#include "quant/groups.h"
#include "quant/tables.h"

namespace cvxq {

// One linear to be coded. Everything referred to outlives the coder.
struct CodecInput {
  const float* w = nullptr;  // [M, N]
  const GroupLayout* layout = nullptr;
  const std::vector<uint8_t>* depth = nullptr;  // [clusters, lines]
  const CurvatureFactor* factor = nullptr;      // of the inputs; nullptr: no feedback
  const LevelTables* tables = nullptr;
  int scale_steps = 4;  // of the grid of scales, to an octave
};

class LayerCoder {
 public:
  virtual ~LayerCoder() = default;
  // Slabs are independent pieces: any thread, any order, each once.
  virtual int64_t slabs() const = 0;
  virtual void CodeSlab(int64_t slab) = 0;
  // After all slabs. Valid once.
  virtual PackedMatrix Finish() = 0;
};

// `lloyd`: Lloyd-Max levels, no means, one-sided error feedback where a factor is given. Under
// kColumns the scale of a group is fitted to what feedback has made of its column when its turn
// comes; under kRows a group's columns are rounded at different times, so its scale is fitted to
// the original weights.
std::unique_ptr<LayerCoder> MakeLloydCoder(const CodecInput& input);

// `companded`: the codec of CVXQ (arXiv 2409.02026, sections 3.2 and 3.3): mean and deviation of
// each group, companded levels, then a search over multiples of step and offset for the least
// squared error. No feedback.
std::unique_ptr<LayerCoder> MakeCompandedCoder(const CodecInput& input);

// What the codecs start from: shape, members, depths and levels of the input, scales of 1, and
// means of 0 where asked for; no codes yet.
PackedMatrix StartPackedMatrix(const CodecInput& input, bool means);

}  // namespace cvxq

#endif  // CVXQ_QUANT_CODEC_H_
