// Level tables: what the codes of each depth stand for, for a group scaled to unit deviation.
#ifndef CVXQ_QUANT_TABLES_H_
#define CVXQ_QUANT_TABLES_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/packed_matrix.h"

namespace cvxq {

// table[b] holds 2^b ascending levels for b = 1..8 (table[0] is empty: depth 0 means the mean, or
// zero); boundary[b] the 2^b - 1 points between them: a value at or above boundary i, below
// boundary i + 1, has code i + 1.
struct LevelTables {
  std::array<std::vector<float>, kMaxDepth + 1> table;
  std::array<std::vector<float>, kMaxDepth + 1> boundary;
  // Mean squared error on the density they were made for, of unit variance; [0] is 1.
  std::array<double, kMaxDepth + 1> distortion{};

  // The code of a value of a group of unit deviation.
  uint8_t Encode(int depth, float value) const;
};

// Lloyd-Max tables (Lloyd 1957, Max 1960) of the generalised Gaussian density
// p(x) ~ exp(-|x / a|^shape): 2 is the Gaussian, 1 the Laplacian.
LevelTables LloydMaxTables(double shape);

// The compander of CVXQ (arXiv 2409.02026, eq. 9): c(w) is the distribution function of a Laplacian
// of scale 3 / sqrt(2) (the cube-root law for unit variance); code = floor(2^b c(w)), level =
// c^-1((code + 1/2) / 2^b).
LevelTables CompanderTables();

}  // namespace cvxq

#endif  // CVXQ_QUANT_TABLES_H_
