// Activations and other elementwise operations.
#include <cmath>

#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/vectors.cuh"

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
    const float s = FastReciprocal(1 + expf(-x));
    return {x * s, s * (1 + x * (1 - s))};
  }
}

// What follows are bodies of ForEach: At() is of the elements [i, i + kWidth).

template <ActivationKind kKind, typename T>
struct Forward {
  const float *gate, *up;  // gate may be null
  T* y;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    auto value = Load<kWidth>(up + i);
    if (gate == nullptr) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) value[k] = Activate<kKind>(value[k]).value;
    } else {
      const auto of_gate = Load<kWidth>(gate + i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) value[k] *= Activate<kKind>(of_gate[k]).value;
    }
    Store(y + i, value);
  }
};

// gup may be gy: an element is read before it is written.
template <ActivationKind kKind>
struct Backward {
  const float *gate, *up, *gy;
  float *ggate, *gup;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    const auto value = Load<kWidth>(up + i);
    auto g = Load<kWidth>(gy + i);
    if (gate == nullptr) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) g[k] *= Activate<kKind>(value[k]).slope;
    } else {
      auto of_gate = Load<kWidth>(gate + i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const ValueAndSlope a = Activate<kKind>(of_gate[k]);
        of_gate[k] = g[k] * value[k] * a.slope;
        g[k] *= a.value;
      }
      Store(ggate + i, of_gate);
    }
    Store(gup + i, g);
  }
};

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

// y += alpha x.
struct AddMultiple {
  float alpha;
  const float* x;
  float* y;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    const auto more = Load<kWidth>(x + i);
    auto sum = Load<kWidth>(y + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] = Fma(alpha, more[k], sum[k]);
    Store(y + i, sum);
  }
};

// Rows of d, a multiple of kWidth.
struct RowFactors {
  const float* scale;
  float* x;
  int64_t d;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    const float factor = scale[i / d];
    auto value = Load<kWidth>(x + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) value[k] *= factor;
    Store(x + i, value);
  }
};

struct Cap {
  float scale, cap;
  float* x;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    auto value = Load<kWidth>(x + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float scaled = scale * value[k];
      value[k] = cap > 0 ? cap * tanhf(scaled / cap) : scaled;
    }
    Store(x + i, value);
  }
};

struct CapBackward {
  float scale, cap;
  const float* y;
  float* g;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    const auto value = Load<kWidth>(y + i);
    auto gradient = Load<kWidth>(g + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float t = cap > 0 ? value[k] / cap : 0;
      gradient[k] *= scale * (1 - t * t);
    }
    Store(g + i, gradient);
  }
};

}  // namespace

void CudaBackend::Activation(ActivationKind kind, const Tensor& gate, const Tensor& up, Tensor y) {
  if (failed()) return;
  contract::Activation(gate, up, y);
  WithActivation(kind, [&](auto k) {
    WithComputeType(y.dtype, [&](auto element) {
      using T = decltype(element);
      const Forward<decltype(k)::value, T> body{Data<float>(gate), Data<float>(up), Data<T>(y)};
      ForEach(*device_, up.shape.elements(), body, Aligned(body.gate, body.up, body.y));
    });
  });
}

void CudaBackend::ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                                     const Tensor& gy, Tensor ggate, Tensor gup) {
  if (failed()) return;
  contract::ActivationBackward(gate, up, gy, ggate, gup);
  WithActivation(kind, [&](auto k) {
    const Backward<decltype(k)::value> body{Data<float>(gate), Data<float>(up), Data<float>(gy),
                                            Data<float>(ggate), Data<float>(gup)};
    ForEach(*device_, up.shape.elements(), body,
            Aligned(body.gate, body.up, body.gy, body.ggate, body.gup));
  });
}

void CudaBackend::AddScaled(float alpha, const Tensor& x, Tensor y) {
  if (failed()) return;
  contract::AddScaled(x, y);
  const AddMultiple body{alpha, Data<float>(x), Data<float>(y)};
  ForEach(*device_, x.shape.elements(), body, Aligned(body.x, body.y));
}

void CudaBackend::ScaleRows(const Tensor& scale, Tensor x) {
  if (failed()) return;
  contract::ScaleRows(scale, x);
  const RowFactors body{Data<float>(scale), Data<float>(x), x.shape[1]};
  ForEach(*device_, x.shape.elements(), body, Aligned(body.x) && body.d % kVector == 0);
}

void CudaBackend::ScaleAndCap(float scale, float cap, Tensor x) {
  if (failed()) return;
  contract::ScaleAndCap(x);
  const Cap body{scale, cap, Data<float>(x)};
  ForEach(*device_, x.shape.elements(), body, Aligned(body.x));
}

void CudaBackend::ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) {
  if (failed()) return;
  contract::ScaleAndCapBackward(y, g);
  const CapBackward body{scale, cap, Data<float>(y), Data<float>(g)};
  ForEach(*device_, y.shape.elements(), body, Aligned(body.y, body.g));
}

}  // namespace cvxq::cuda
