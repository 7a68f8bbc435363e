// A whole decoder: embedding, blocks, final norm, head. The weights of a block are read when it
// first runs; they stay resident while memory allows, else they are streamed: forgotten after the
// block and read again. Results do not depend on it. Used from one thread at a time.
#ifndef CVXQ_MODEL_MODEL_H_
#define CVXQ_MODEL_MODEL_H_

#include <memory>
#include <vector>

#include "model/block.h"

namespace cvxq {

struct ModelOptions {
  DType compute = DType::kF32;
  // The head, where it had to be converted, and blocks stay in memory while their sum is at most
  // this many bytes; what comes beyond is converted or read again for each call.
  int64_t resident_bytes = INT64_MAX;
  // What is read besides blocks: for Embed, and for all that concerns hidden states and logits. A
  // stage within the model calls neither.
  bool first = true, last = true;
};

class Model {
 public:
  // `source` and `backend` outlive the model. Checks the names and shapes of all tensors at once;
  // values of blocks are checked as they are read.
  static StatusOr<std::unique_ptr<Model>> Load(ArchSpec spec, const WeightSource& source,
                                               const ModelOptions& options, Backend& backend);

  const ArchSpec& spec() const { return spec_; }
  Backend& backend() const { return backend_; }
  DType compute() const { return options_.compute; }

  // x[B*T, D] float from ids I32 [B*T]; waits for the ids. kInvalidArgument for an id outside the
  // vocabulary or a position that the model does not have.
  StatusOr<Tensor> Embed(const Wave& wave, const Tensor& ids);
  // As in block.h. Errors: reading weights; a position that the model does not have.
  Status ForwardBlock(int64_t index, const Wave& wave, Tensor x, const LinearObserver* observer,
                      KeyValueCache* cache = nullptr);
  Status BackwardBlock(int64_t index, const Wave& wave, const Tensor& x, Tensor g,
                       const LinearObserver* observer, const NormObserver* norms = nullptr);
  // The final hidden states [n, E] float of the last block's output x[n, D]: final norm, and
  // project_out where there is one (E = embedding_dim).
  Tensor FinalHidden(const Tensor& x);
  // g[n, D] float with respect to x, from gh[n, E] with respect to FinalHidden(x).
  Tensor FinalHiddenBackward(const Tensor& x, const Tensor& gh,
                             const NormObserver* norms = nullptr);
  // logits[n, V] float of hidden[n, E] float, with the model's scale and cap.
  Tensor Logits(const Tensor& hidden);
  // gh[n, E] float, from glogits[n, V] (float, overwritten) and the logits.
  Tensor LogitsBackward(const Tensor& logits, Tensor glogits);

  // Reads the norms and biases again, for a source that has other values now.
  Status ReloadParameters();

  // Embed, all blocks, FinalHidden in one call.
  StatusOr<Tensor> Forward(const Wave& wave, const Tensor& ids);

 private:
  Model(ArchSpec spec, const WeightSource& source, const ModelOptions& options, Backend& backend)
      : spec_(std::move(spec)), source_(source), options_(options), backend_(backend) {}
  Status LoadEnds();  // all but the blocks
  Status LoadHead();
  Status LoadFinalNorm();
  StatusOr<std::shared_ptr<const BlockWeights>> Weights(int64_t index);
  Status CheckWave(const Wave& wave) const;
  void GrowRope(int64_t positions);
  Status Finish(int64_t index);  // lets a streamed block's weights go

  ArchSpec spec_;
  const WeightSource& source_;
  ModelOptions options_;
  Backend& backend_;
  std::vector<std::shared_ptr<const BlockWeights>> resident_;  // null: not read, or streamed
  int64_t resident_bytes_ = 0;
  std::vector<RopeTables> rope_;  // one for each block; blocks with equal RopeSpec share tensors
  int64_t rope_positions_ = 0;    // rows of the tables; they grow with need
  Tensor embedding_, positions_, project_in_, project_out_, head_;
  NormWeight final_norm_;
};

}  // namespace cvxq

#endif  // CVXQ_MODEL_MODEL_H_
