// Opening a model folder, dense or quantised, as everything later wants it.
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

inline constexpr int kPackedFormatVersion = 1;

struct ModelFiles {
  std::string folder;
  std::shared_ptr<const Checkpoint> checkpoint;
  ArchSpec spec;
  std::unique_ptr<WeightSource> weights;
  bool packed = false;

  int64_t parameters() const;  // of all tensors; quantised matrices count their weights
};

// `threads` decode the linears that are read later (0: all that this process may use). kNotFound,
// kDataLoss, kUnimplemented, each with the path.
StatusOr<ModelFiles> OpenModel(const std::string& folder, int threads = 0);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_MODEL_FILES_H_
