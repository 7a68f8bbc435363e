// Principal components of a covariance matrix (through Eigen, which keeps a file of its own because
// it is slow to compile).
#ifndef CVXQ_PIPELINE_PRINCIPAL_COMPONENTS_H_
#define CVXQ_PIPELINE_PRINCIPAL_COMPONENTS_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace cvxq {

// The `count` eigenvectors of largest eigenvalue of the symmetric covariance [n, n]: float [count,
// n], each of unit length, its largest entry positive. kDataLoss if the matrix is not finite.
StatusOr<std::vector<float>> PrincipalComponents(const std::vector<float>& covariance, int64_t n,
                                                 int64_t count);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_PRINCIPAL_COMPONENTS_H_
