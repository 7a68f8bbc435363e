// Linears.
#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {
namespace {

// y[n, M]: each row = bias.
__global__ void SpreadBiasKernel(const float* bias, float* y, int64_t n, int64_t M) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n * M;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = bias[i % M];
  }
}

}  // namespace

void CudaBackend::Linear(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) {
  if (failed()) return;
  contract::Linear(x, w, bias, y);
  const int64_t n = x.shape[0], M = w.shape[0], N = w.shape[1];
  if (!bias.empty()) {
    Launch(*device_, ElementGrid(n * M), SpreadBiasKernel, Data<float>(bias), Data<float>(y), n, M);
  }
  products_->Multiply({.m = n,
                       .n = M,
                       .k = N,
                       .a = DeviceBytes(x),
                       .a_stride = N,
                       .b = DeviceBytes(w),
                       .transpose_b = true,
                       .b_stride = N,
                       .c = Data<float>(y),
                       .c_stride = M,
                       .dtype = x.dtype,
                       .accumulate = !bias.empty()});
}

void CudaBackend::LinearBackward(const Tensor& gy, const Tensor& w, Tensor gx, bool accumulate) {
  if (failed()) return;
  contract::LinearBackward(gy, w, gx);
  const int64_t n = gy.shape[0], M = w.shape[0], N = w.shape[1];
  products_->Multiply({.m = n,
                       .n = N,
                       .k = M,
                       .a = DeviceBytes(gy),
                       .a_stride = M,
                       .b = DeviceBytes(w),
                       .b_stride = N,
                       .c = Data<float>(gx),
                       .c_stride = N,
                       .dtype = gy.dtype,
                       .accumulate = accumulate});
}

}  // namespace cvxq::cuda
