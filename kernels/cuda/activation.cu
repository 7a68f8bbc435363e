// Activations and other elementwise operations.
#include <cmath>

#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {
namespace {

struct ValueAndSlope {
  float value, slope;
};

template <ActivationKind kKind>
__device__ ValueAndSlope Activate(float x) {
  if constexpr (kKind == ActivationKind::kRelu) {
    return x > 0 ? ValueAndSlope{x, 1} : ValueAndSlope{x * 0, 0};  // x * 0 keeps NaN
  } else if constexpr (kKind == ActivationKind::kGelu) {
    const float cdf = 0.5f * (1 + erff(x * 0.70710678f));
    return {x * cdf, cdf + x * expf(-0.5f * x * x) * 0.39894228f};
  } else if constexpr (kKind == ActivationKind::kGeluTanh) {
    constexpr float kC = 0.79788456f, kCube = 0.044715f;  // sqrt(2 / pi)
    const float t = tanhf(kC * (x + kCube * x * x * x));
    return {0.5f * x * (1 + t),
            0.5f * (1 + t) + 0.5f * x * (1 - t * t) * kC * (1 + 3 * kCube * x * x)};
  } else {
    const float s = 1 / (1 + expf(-x));
    return {x * s, s * (1 + x * (1 - s))};
  }
}

template <ActivationKind kKind, typename T>
__global__ void ActivationKernel(const float* gate, const float* up, T* y, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = FromFloat<T>(gate == nullptr ? Activate<kKind>(up[i]).value
                                        : Activate<kKind>(gate[i]).value * up[i]);
  }
}

// gup may be gy: an element is read before it is written.
template <ActivationKind kKind>
__global__ void ActivationBackwardKernel(const float* gate, const float* up, const float* gy,
                                         float* ggate, float* gup, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float g = gy[i];
    if (gate == nullptr) {
      gup[i] = g * Activate<kKind>(up[i]).slope;
    } else {
      const ValueAndSlope a = Activate<kKind>(gate[i]);
      ggate[i] = g * up[i] * a.slope;
      gup[i] = g * a.value;
    }
  }
}

// body(std::integral_constant<ActivationKind, kind>).
template <typename Body>
void WithActivation(ActivationKind kind, const Body& body) {
  using enum ActivationKind;
  switch (kind) {
    case kRelu:
      return body(std::integral_constant<ActivationKind, kRelu>());
    case kGelu:
      return body(std::integral_constant<ActivationKind, kGelu>());
    case kGeluTanh:
      return body(std::integral_constant<ActivationKind, kGeluTanh>());
    case kSilu:
      return body(std::integral_constant<ActivationKind, kSilu>());
  }
  Require(false, "Activation: unknown kind");
}

__global__ void AddScaledKernel(float alpha, const float* x, float* y, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = Fma(alpha, x[i], y[i]);
  }
}

__global__ void ScaleRowsKernel(const float* scale, float* x, int64_t count, int64_t d) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    x[i] *= scale[i / d];
  }
}

__global__ void ScaleAndCapKernel(float scale, float cap, float* x, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float scaled = scale * x[i];
    x[i] = cap > 0 ? cap * tanhf(scaled / cap) : scaled;
  }
}

__global__ void ScaleAndCapBackwardKernel(float scale, float cap, const float* y, float* g,
                                          int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float t = cap > 0 ? y[i] / cap : 0;
    g[i] *= scale * (1 - t * t);
  }
}

}  // namespace

void CudaBackend::Activation(ActivationKind kind, const Tensor& gate, const Tensor& up, Tensor y) {
  if (failed()) return;
  contract::Activation(gate, up, y);
  const int64_t count = up.shape.elements();
  WithActivation(kind, [&](auto k) {
    WithComputeType(y.dtype, [&](auto element) {
      using T = decltype(element);
      Launch(*device_, ElementGrid(count), ActivationKernel<decltype(k)::value, T>,
             Data<float>(gate), Data<float>(up), Data<T>(y), count);
    });
  });
}

void CudaBackend::ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                                     const Tensor& gy, Tensor ggate, Tensor gup) {
  if (failed()) return;
  contract::ActivationBackward(gate, up, gy, ggate, gup);
  const int64_t count = up.shape.elements();
  WithActivation(kind, [&](auto k) {
    Launch(*device_, ElementGrid(count), ActivationBackwardKernel<decltype(k)::value>,
           Data<float>(gate), Data<float>(up), Data<float>(gy), Data<float>(ggate),
           Data<float>(gup), count);
  });
}

void CudaBackend::AddScaled(float alpha, const Tensor& x, Tensor y) {
  if (failed()) return;
  contract::AddScaled(x, y);
  const int64_t count = x.shape.elements();
  Launch(*device_, ElementGrid(count), AddScaledKernel, alpha, Data<float>(x), Data<float>(y),
         count);
}

void CudaBackend::ScaleRows(const Tensor& scale, Tensor x) {
  if (failed()) return;
  contract::ScaleRows(scale, x);
  const int64_t count = x.shape.elements();
  Launch(*device_, ElementGrid(count), ScaleRowsKernel, Data<float>(scale), Data<float>(x), count,
         x.shape[1]);
}

void CudaBackend::ScaleAndCap(float scale, float cap, Tensor x) {
  if (failed()) return;
  contract::ScaleAndCap(x);
  const int64_t count = x.shape.elements();
  Launch(*device_, ElementGrid(count), ScaleAndCapKernel, scale, cap, Data<float>(x), count);
}

void CudaBackend::ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) {
  if (failed()) return;
  contract::ScaleAndCapBackward(y, g);
  const int64_t count = y.shape.elements();
  Launch(*device_, ElementGrid(count), ScaleAndCapBackwardKernel, scale, cap, Data<float>(y),
         Data<float>(g), count);
}

}  // namespace cvxq::cuda
