// Curvature in the factored form that error feedback works from, made on the device.
#ifndef CVXQ_KERNELS_CUDA_CURVATURE_H_
#define CVXQ_KERNELS_CUDA_CURVATURE_H_

#include <cstdint>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/solver.h"
#include "kernels/device_rounder.h"

namespace cvxq::cuda {

// The diagonal of h [n, n] F32, on the host: waits.
std::vector<float> DiagonalOf(Device& device, const Tensor& h);

// DeviceRounder::Factor.
StatusOr<DeviceFactor> FactorOnDevice(Device& device, Solver& solver, const Tensor& h,
                                      std::vector<int32_t> order, double damping);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_CURVATURE_H_
