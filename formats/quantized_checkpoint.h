// Checkpoints that other engines' formats hold, and that our exports write: compressed-tensors,
// GPTQ, AWQ. Linears are decoded to dense matrices when they are asked for, with the values that
// the formats' own libraries compute, bit by bit:
//   integers, E4M3  (code - zero) * scale, rounded to the scale's type; in compressed-tensors that
//                   is the model's (config's dtype), if it has one, whatever the file's is
//   NVFP4           E2M1 * (scale / global scale), each rounded to F32, then to BF16
//   MXFP4           E2M1 * scale, which BF16 holds
// That type is the matrix's.
#ifndef CVXQ_FORMATS_QUANTIZED_CHECKPOINT_H_
#define CVXQ_FORMATS_QUANTIZED_CHECKPOINT_H_

#include <map>
#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "formats/quantization_config.h"
#include "formats/stored_matrix.h"
#include "model/weights.h"
#include "storage/checkpoint.h"

namespace cvxq {

class QuantizedCheckpoint : public WeightSource {
 public:
  // Reads quantization_config and checks types and shapes of all that belongs to quantised linears;
  // decoding is by `threads` threads. kDataLoss or kUnimplemented, with the file.
  static StatusOr<std::unique_ptr<QuantizedCheckpoint>> Open(
      std::shared_ptr<const Checkpoint> checkpoint, int threads);

  // The config's quant_method.
  const std::string& method() const { return method_; }
  // Of all matrices and vectors; quantised ones count their weights.
  int64_t parameters() const;
  // The quantised linears, each with how it is stored.
  const std::map<std::string, StoredMatrix>& linears() const { return linears_; }

  // Whether a tensor of this name belongs to a quantised linear.
  bool Owns(const std::string& name) const { return owner_.contains(name); }

  std::optional<TensorInfo> Describe(const std::string& name) const override;
  StatusOr<HostTensor> Dense(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  QuantizedCheckpoint(std::shared_ptr<const Checkpoint> checkpoint, int threads)
      : checkpoint_(std::move(checkpoint)), pool_(std::make_unique<ThreadPool>(threads)) {}

  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<ThreadPool> pool_;
  std::string method_;
  std::map<std::string, StoredMatrix> linears_;
  std::map<std::string, std::string> owner_;  // of tensors of quantised linears: which
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_QUANTIZED_CHECKPOINT_H_
