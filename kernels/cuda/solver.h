// Factorisations on a GPU: cuSOLVER.
#ifndef CVXQ_KERNELS_CUDA_SOLVER_H_
#define CVXQ_KERNELS_CUDA_SOLVER_H_

#include <cstdint>
#include <memory>

#include "kernels/cuda/device.h"

namespace cvxq::cuda {

// Results are the same from run to run.
class Solver {
 public:
  static StatusOr<std::unique_ptr<Solver>> Make(Device& device);
  virtual ~Solver() = default;

  // The Cholesky factor in place: the lower triangle of a [n, n] (row-major) becomes C with
  // C C^T = A, reading nothing else; the upper is left undefined. `info` (on the device): 0, or
  // something else where a pivot is not positive. Enqueued; errors are kept by the device.
  virtual void Cholesky(float* a, int64_t n, int32_t* info) = 0;
};

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_SOLVER_H_
