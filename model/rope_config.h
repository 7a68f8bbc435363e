// Reads how rotary angles are made from a config: `rope_theta` and `rope_scaling` as transformers 4
// writes them, or `rope_parameters` of transformers 5, for all blocks or by kind of block.
#ifndef CVXQ_MODEL_ROPE_CONFIG_H_
#define CVXQ_MODEL_ROPE_CONFIG_H_

#include "model/arch_spec.h"
#include "model/config_reader.h"

namespace cvxq {

// Of blocks with full attention and of blocks that attend within a window.
struct RopePair {
  RopeSpec full, windowed;
};

// `theta` and, where blocks with a window have their own, `local_theta` (else 0) stand in for
// missing fields. Errors are kept in `read`.
RopePair ReadRope(ConfigReader& read, RopeKind kind, double theta, double local_theta,
                  int64_t max_positions);

// Radians that channels `pair` and its partner turn per position, with the scaling.
double RopeFrequency(const RopeSpec& rope, int64_t pair, int64_t head_dim);

}  // namespace cvxq

#endif  // CVXQ_MODEL_ROPE_CONFIG_H_
