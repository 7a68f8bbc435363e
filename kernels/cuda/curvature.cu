// H = L D L^T on the device: what quant/curvature.h does, with the Cholesky factor in float.
#include <algorithm>
#include <cmath>

#include "kernels/contract.h"
#include "kernels/cuda/curvature.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {
namespace {

// diagonal[i] = h[i, i].
__global__ void DiagonalKernel(const float* h, float* diagonal, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    diagonal[i] = h[i * n + i];
  }
}

// a[i, j] = h[order[i], order[j]] for j <= i, and `more` on the diagonal; h null: zeros.
__global__ void OrderKernel(const float* h, const int32_t* order, float more, float* a, int64_t n) {
  for (int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; at < n * n;
       at += int64_t{gridDim.x} * blockDim.x) {
    const int64_t i = at / n, j = at % n;
    const float value = h == nullptr || j > i ? 0 : h[order[i] * n + order[j]];
    a[at] = i == j ? value + more : value;
  }
}

// From C C^T to L D L^T: first D and the inverse of C's diagonal, then L from C, in place.
__global__ void RootsKernel(const float* c, float* diagonal, float* inverse, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float root = c[i * n + i];
    diagonal[i] = root * root;
    inverse[i] = 1 / root;
  }
}
__global__ void UnitLowerKernel(float* c, const float* inverse, int64_t n) {
  for (int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; at < n * n;
       at += int64_t{gridDim.x} * blockDim.x) {
    const int64_t i = at / n, j = at % n;
    c[at] = j > i ? 0 : j == i ? 1 : c[at] * inverse[j];
  }
}

}  // namespace

std::vector<float> DiagonalOf(Device& device, const Tensor& h) {
  const int64_t n = h.shape[0];
  const Tensor diagonal = device.Scratch(DType::kF32, {n});
  std::vector<float> result(n);
  Launch(device, ElementGrid(n), DiagonalKernel, Data<float>(h), Data<float>(diagonal), n);
  if (!device.failed()) device.Download(DeviceBytes(diagonal), result.data(), 4 * n);
  return result;
}

StatusOr<DeviceFactor> FactorOnDevice(Device& device, Solver& solver, const Tensor& h,
                                      std::vector<int32_t> order, double damping) {
  const int64_t n = std::ssize(order);
  Require(h.dtype == DType::kF32 && h.shape == Shape({n, n}), "Factor: not [n, n] F32");
  double trace = 0;
  std::vector<float> diagonal = DiagonalOf(device, h);
  for (const float d : diagonal) trace += d;
  CVXQ_RETURN_IF_ERROR(device.Synchronize());
  if (!std::isfinite(trace)) {
    return absl::DataLossError(
        "second moments are not finite; check the model for NaN or exploding activations");
  }
  const double mean = trace / static_cast<double>(n);
  DeviceFactor factor = {.lower = device.Scratch(DType::kF32, {n, n}),
                         .diagonal = device.Scratch(DType::kF32, {n}),
                         .order = std::move(order)};
  const Tensor inverse = device.Scratch(DType::kF32, {n});
  const Tensor info = device.Scratch(DType::kI32, {1});
  const Tensor places = device.Scratch(DType::kI32, {n});
  CVXQ_RETURN_IF_ERROR(device.Synchronize());
  device.Upload(factor.order.data(), DeviceBytes(places), 4 * n);
  float* const lower = Data<float>(factor.lower);
  for (double share = damping;; share = std::max(share * 10, 1e-4)) {
    factor.damping = share;
    Launch(device, ElementGrid(n * n), OrderKernel, mean > 0 ? Data<float>(h) : nullptr,
           Data<int32_t>(places), static_cast<float>(mean > 0 ? share * mean : 1.0), lower, n);
    solver.Cholesky(lower, n, Data<int32_t>(info));
    Launch(device, ElementGrid(n), RootsKernel, lower, Data<float>(factor.diagonal),
           Data<float>(inverse), n);
    int32_t stopped = 0;
    device.Download(DeviceBytes(info), &stopped, sizeof(stopped));
    device.Download(DeviceBytes(factor.diagonal), diagonal.data(), 4 * n);
    CVXQ_RETURN_IF_ERROR(device.Synchronize());
    if (stopped == 0 && std::all_of(diagonal.begin(), diagonal.end(),
                                    [](float d) { return d > 0 && std::isfinite(d); })) {
      break;
    }
    if (share >= 1) {
      return absl::DataLossError("second moments cannot be factored even with heavy damping");
    }
  }
  Launch(device, ElementGrid(n * n), UnitLowerKernel, lower, Data<float>(inverse), n);
  CVXQ_RETURN_IF_ERROR(device.Synchronize());
  return factor;
}

}  // namespace cvxq::cuda
