// Opening a model, dense or quantised, a folder here or in a bucket, as everything later wants it.
#ifndef CVXQ_PIPELINE_MODEL_FILES_H_
#define CVXQ_PIPELINE_MODEL_FILES_H_

#include <memory>
#include <string>

#include "model/arch_spec.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "pipeline/packed_weights.h"
#include "storage/checkpoint.h"

namespace cvxq {

class GgufModel;
class QuantizedCheckpoint;

inline constexpr int kPackedFormatVersion = 1;

struct ModelFiles {
  std::string folder;                            // its address
  std::shared_ptr<const Checkpoint> checkpoint;  // or
  std::shared_ptr<const GgufModel> gguf;
  ArchSpec spec;
  std::unique_ptr<WeightSource> weights;
  bool packed = false;  // the original of the model is elsewhere
  const QuantizedCheckpoint* quantized = nullptr;  // `weights`, where another tool's format is read

  int64_t parameters() const;  // of all tensors; quantised matrices count their weights
  StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer() const;
};

// Of a folder, or of a GGUF file of this machine: its path, or a folder that holds one and no
// config.json. `address` and `scratch` are those of Folder::Open; `threads` decode the linears that
// are read later (0: all that this process may use). kNotFound, kDataLoss, kUnimplemented, each
// with the path; errors of the store.
StatusOr<ModelFiles> OpenModel(const std::string& address, int threads = 0,
                               const std::string& scratch = "");

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_MODEL_FILES_H_
