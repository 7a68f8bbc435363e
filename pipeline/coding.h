// Coding all linears with the depths of their plans.
#ifndef CVXQ_PIPELINE_CODING_H_
#define CVXQ_PIPELINE_CODING_H_

#include <vector>

#include "base/progress.h"
#include "pipeline/linear_plan.h"
#include "pipeline/quantize.h"
#include "quant/tables.h"

namespace cvxq {

struct CodingOptions {
  CodecKind codec = CodecKind::kLloyd;
  bool feedback = true;
  bool bias_correction = false;
  int scale_steps = 4;
};

// Fills packed, code_bytes, zero_weights and, with bias correction, bias of every plan:
// b - (W_hat - W) E[x], with b the checkpoint's bias or zero. Errors: weights, the store.
Status CodePlans(const CodingOptions& options, const LevelTables& tables,
                 const Checkpoint& checkpoint, const ModelMoments& moments, const SpillStore& store,
                 ThreadPool& pool, Progress::Phase& progress, std::vector<LinearPlan>& plans);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_CODING_H_
