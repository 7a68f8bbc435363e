// Elements of tensors in device code: float, BF16 and F16 as types, read and written as float.
#ifndef CVXQ_KERNELS_CUDA_ELEMENTS_CUH_
#define CVXQ_KERNELS_CUDA_ELEMENTS_CUH_

#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/backend.h"
#include "kernels/contract.h"
#include "kernels/cuda/device.h"

namespace cvxq::cuda {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(BF16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
__device__ inline float ToFloat(F16 x) { return F16BitsToFloat(x.bits); }

template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline BF16 FromFloat<BF16>(float x) {
  return {FloatToBF16Bits(x)};
}
template <>
__device__ inline F16 FromFloat<F16>(float x) {
  return {FloatToF16Bits(x)};
}

// The first element of a tensor; null of an empty one.
template <typename T>
T* Data(const Tensor& tensor) {
  return reinterpret_cast<T*>(DeviceBytes(tensor));
}

// body(float{} or BF16{} or F16{}), by the dtype.
template <typename Body>
void WithFloatType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kBF16:
      return body(BF16{});
    case DType::kF16:
      return body(F16{});
    default:
      Require(false, "WithFloatType: not a float type");
  }
}

// The same for outputs and operands that are float or BF16: "compute" of backend.h.
template <typename Body>
void WithComputeType(DType dtype, const Body& body) {
  if (dtype == DType::kF32) return body(float{});
  Require(dtype == DType::kBF16, "WithComputeType: neither F32 nor BF16");
  body(BF16{});
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_ELEMENTS_CUH_
