// Where attention writes: y is float or BF16, chosen at run time since its writes are few.
#ifndef CVXQ_KERNELS_CUDA_ATTENTION_OUTPUT_CUH_
#define CVXQ_KERNELS_CUDA_ATTENTION_OUTPUT_CUH_

#include "kernels/cuda/elements.cuh"

namespace cvxq::cuda {

struct AttentionOutput {
  float* floats = nullptr;
  BF16* halves = nullptr;

  static AttentionOutput Of(const Tensor& y) {
    if (y.dtype == DType::kF32) return {.floats = Data<float>(y)};
    return {.halves = Data<BF16>(y)};
  }
  __device__ void Put(int64_t at, float value) const {
    if (floats != nullptr) {
      floats[at] = value;
    } else {
      halves[at] = FromFloat<BF16>(value);
    }
  }
  // Two elements; `at` is even.
  __device__ void PutPair(int64_t at, float first, float second) const {
    if (floats != nullptr) {
      *reinterpret_cast<float2*>(floats + at) = make_float2(first, second);
    } else {
      *reinterpret_cast<uint32_t*>(halves + at) = PackBF16(first, second);
    }
  }
};

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_ATTENTION_OUTPUT_CUH_
