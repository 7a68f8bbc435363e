// Sums and maxima over the threads of a warp or a block, in a fixed order: no atomics.
#ifndef CVXQ_KERNELS_CUDA_REDUCE_CUH_
#define CVXQ_KERNELS_CUDA_REDUCE_CUH_

#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/geometry.h"

namespace cvxq::cuda {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
// A NaN wins, so that it is not lost.
struct Max {
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

template <typename T, typename Op>
__device__ T WarpReduce(T value, Op op) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  }
  return value;  // the same in all lanes
}

// Over the kThreads threads (a warp, or the whole block of kBlockThreads) that share a row; all get
// the result. Blocks: `scratch` is shared memory for kThreads / kWarp values, free again on return.
template <int kThreads, typename T, typename Op>
__device__ T RowReduce(T value, T* scratch, Op op) {
  value = WarpReduce(value, op);
  if constexpr (kThreads > kWarp) {
    const int warp = threadIdx.x / kWarp;
    if (threadIdx.x % kWarp == 0) scratch[warp] = value;
    __syncthreads();
    value = scratch[0];
    for (int i = 1; i < kThreads / kWarp; ++i) value = op(value, scratch[i]);
    __syncthreads();
  }
  return value;
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_REDUCE_CUH_
