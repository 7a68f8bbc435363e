// Rounding the weights of one group to a table of levels: the inner loop of the codecs.
#ifndef CVXQ_QUANT_ROUND_GROUP_H_
#define CVXQ_QUANT_ROUND_GROUP_H_

#include <cstdint>

#include "quant/tables.h"

namespace cvxq {

// Codes of values[n] with value ~ scale * level + mean: codes[i], and the sum of squared errors of
// scale * level[code] + mean (float arithmetic as in packed_matrix.h; errors are squared and summed
// in units of the scale, in a fixed order, the same on every CPU). depth >= 1.
double RoundGroup(const LevelTables& tables, int depth, float scale, float mean,
                  const float* values, int64_t n, uint8_t* codes);

float RootMeanSquare(const float* values, int64_t n);

// As RoundGroup, with the scale of least error among the grid's nearest to `scale_guess`:
// indices within `reach` of it. Returns the index; codes are those of that scale.
int FitScale(const LevelTables& tables, int depth, int scale_steps, float scale_guess, int reach,
             const float* values, int64_t n, uint8_t* codes);

}  // namespace cvxq

#endif  // CVXQ_QUANT_ROUND_GROUP_H_
