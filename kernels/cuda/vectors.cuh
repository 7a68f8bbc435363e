// Several neighbouring elements of a tensor at once. Memory is at full speed only with about 30 KB
// under way for each multiprocessor: 2,048 threads with a float each have a quarter of that.
//
//   struct AddScaled {
//     float alpha;
//     const float* x;
//     float* y;
//     template <int kWidth>
//     __device__ void At(int64_t i) const {  // of the elements [i, i + kWidth)
//       const auto a = Load<kWidth>(x + i);
//       auto b = Load<kWidth>(y + i);
//       for (int k = 0; k < kWidth; ++k) b[k] = Fma(alpha, a[k], b[k]);
//       Store(y + i, b);
//     }
//   };
//   ForEach(device, count, AddScaled{alpha, x, y}, Aligned(x, y));
#ifndef CVXQ_KERNELS_CUDA_VECTORS_CUH_
#define CVXQ_KERNELS_CUDA_VECTORS_CUH_

#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {

inline constexpr int kVector = 4;  // elements: 16 bytes of floats, 8 of BF16

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T at[kWidth];

  __device__ T& operator[](int k) { return at[k]; }
  __device__ const T& operator[](int k) const { return at[k]; }
};

// The elements [p, p + kWidth) as floats. p is a multiple of their size.
template <int kWidth, typename T>
__device__ Vector<float, kWidth> Load(const T* p) {
  const auto stored = LoadVector<Vector<T, kWidth>>(p);
  Vector<float, kWidth> values;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) values[k] = ToFloat(stored[k]);
  return values;
}

template <int kWidth, typename T>
__device__ void Store(T* p, const Vector<float, kWidth>& values) {
  Vector<T, kWidth> stored;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) stored[k] = FromFloat<T>(values[k]);
  StoreVector(p, stored);
}

// Whether all pointers allow vectors (null does).
template <typename... T>
bool Aligned(const T*... p) {
  return ((reinterpret_cast<uintptr_t>(p) % (kVector * sizeof(T)) == 0) && ...);
}

template <int kWidth, typename Body>
__global__ void ForEachKernel(Body body, int64_t count) {
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  const int64_t vectors = count / kWidth, rest = count % kWidth;
  for (int64_t v = thread; v < vectors; v += int64_t{gridDim.x} * blockDim.x) {
    body.template At<kWidth>(v * kWidth);
  }
  if (thread < rest) body.template At<1>(vectors * kWidth + thread);
}

// body.At<kWidth>(i) for all of [0, count): by vectors and what is left of them if `aligned`, else
// one by one.
template <typename Body>
void ForEach(Device& device, int64_t count, const Body& body, bool aligned) {
  if (aligned) {
    Launch(device, ElementGrid(CeilDiv(count, kVector)), ForEachKernel<kVector, Body>, body, count);
  } else {
    Launch(device, ElementGrid(count), ForEachKernel<1, Body>, body, count);
  }
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_VECTORS_CUH_
