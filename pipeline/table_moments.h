// What an error of the token table or of the head does to the output: the curvature that exports
// code these two by. (Quantised models of our own keep them whole.)
#ifndef CVXQ_PIPELINE_TABLE_MOMENTS_H_
#define CVXQ_PIPELINE_TABLE_MOMENTS_H_

#include <vector>

#include "base/progress.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/gradients.h"
#include "quant/curvature.h"

namespace cvxq {

// The curvature of a table [V, E] by its rows and columns: of an error E the distortion is about
// 1/2 sum_v row[v] E_v column E_v^T nats a token.
struct TableMoments {
  std::vector<float> row;     // [V], all positive
  std::vector<float> column;  // [E, E]
};

struct TablesMoments {
  TableMoments embedding, head;  // a tied head: both in `embedding`
};

// One forward and backward pass over the first sequences, with labels drawn from the model
// (docs/math.md):
//   embedding  a row counts as often as its token comes up, its columns by the second moments of
//              the gradient at the embedding
//   head       a row counts by E[p_v (1 - p_v)] (times the squared slope of a cap on logits), its
//   columns by the second moments of the final
//              hidden states
// Tokens that did not come up count as half of one. The same for any number of threads.
// kUnimplemented for a model whose table is not as wide as its blocks. Errors: weights, gradients
// that are not finite (kDataLoss), interruption.
StatusOr<TablesMoments> CollectTableMoments(Model& model, const CalibrationSet& calibration,
                                            const GradientOptions& options,
                                            Progress::Phase& progress);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_TABLE_MOMENTS_H_
