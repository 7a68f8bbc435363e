// A whole decoder: embedding, blocks, final norm, head. Weights are resident (every block read
// once) or streamed (read when a block runs, forgotten after), by a limit on memory.
#ifndef CVXQ_MODEL_MODEL_H_
#define CVXQ_MODEL_MODEL_H_

#include <memory>
#include <vector>

#include "model/block.h"

namespace cvxq {

struct ModelOptions {
  DType compute = DType::kF32;
  // Blocks stay in memory while their sum is at most this many bytes; beyond, they are streamed.
  int64_t resident_bytes = INT64_MAX;
};

class Model {
 public:
  // `source` and `backend` outlive the model.
  static StatusOr<std::unique_ptr<Model>> Load(ArchSpec spec, const WeightSource& source,
                                               const ModelOptions& options, Backend& backend);

  const ArchSpec& spec() const { return spec_; }
  Backend& backend() const { return backend_; }
  DType compute() const { return options_.compute; }

  // x[B*T, D] float from ids I32 [B*T].
  StatusOr<Tensor> Embed(const Wave& wave, const Tensor& ids);
  // As in block.h. Errors: reading weights.
  Status ForwardBlock(int64_t index, const Wave& wave, Tensor x, const LinearObserver* observer,
                      KeyValueCache* cache = nullptr);
  Status BackwardBlock(int64_t index, const Wave& wave, const Tensor& x, Tensor g,
                       const LinearObserver* observer);
  // The final hidden states [n, E] float of the last block's output x[n, D]: final norm, and
  // project_out where there is one (E = embedding_dim).
  Tensor FinalHidden(const Tensor& x);
  // g[n, D] float with respect to x, from gh[n, E] with respect to FinalHidden(x).
  Tensor FinalHiddenBackward(const Tensor& x, const Tensor& gh);
  // logits[n, V] float of hidden[n, E] float, with the model's scale and cap.
  Tensor Logits(const Tensor& hidden);
  // gh[n, E] float, from glogits[n, V] (float, overwritten) and the logits.
  Tensor LogitsBackward(const Tensor& logits, Tensor glogits);

  // Embed, all blocks, FinalHidden in one call.
  StatusOr<Tensor> Forward(const Wave& wave, const Tensor& ids);

 private:
  Model(ArchSpec spec, const WeightSource& source, const ModelOptions& options, Backend& backend)
      : spec_(std::move(spec)), source_(source), options_(options), backend_(backend) {}
  StatusOr<std::shared_ptr<const BlockWeights>> Weights(int64_t index);

  ArchSpec spec_;
  const WeightSource& source_;
  ModelOptions options_;
  Backend& backend_;
  std::vector<std::shared_ptr<const BlockWeights>> resident_;
  std::vector<RopeTables> rope_;  // one for each block; blocks with equal RopeSpec share tensors
  Tensor embedding_, positions_, project_in_, project_out_, head_;
  NormWeight final_norm_;
};

}  // namespace cvxq

#endif  // CVXQ_MODEL_MODEL_H_
