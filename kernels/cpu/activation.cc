// Activations and other elementwise operations.
#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"

namespace cvxq {

void CpuBackend::Activation(ActivationKind kind, const Tensor& gate, const Tensor& up, Tensor y) {
  if (failed()) return;
  contract::Activation(gate, up, y);
  const float* gates = gate.empty() ? nullptr : ConstHostData<float>(gate);
  const float* ups = ConstHostData<float>(up);
  ParallelStore(y, [&](int64_t begin, int64_t end, float* out) {
    ops_.activation(static_cast<int>(kind), gates ? gates + begin : nullptr, ups + begin, out,
                    end - begin);
  });
}

void CpuBackend::ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                                    const Tensor& gy, Tensor ggate, Tensor gup) {
  if (failed()) return;
  contract::ActivationBackward(gate, up, gy, ggate, gup);
  const float* gates = gate.empty() ? nullptr : ConstHostData<float>(gate);
  const float *ups = ConstHostData<float>(up), *gys = ConstHostData<float>(gy);
  float* ggates = gates ? HostData<float>(ggate) : nullptr;
  float* gups = HostData<float>(gup);
  ParallelPieces(up.shape.elements(), 1, [&](int64_t begin, int64_t end) {
    ops_.activation_backward(static_cast<int>(kind), gates ? gates + begin : nullptr, ups + begin,
                             gys + begin, gates ? ggates + begin : nullptr, gups + begin,
                             end - begin);
  });
}

void CpuBackend::AddScaled(float alpha, const Tensor& x, Tensor y) {
  if (failed()) return;
  contract::AddScaled(x, y);
  const float* in = ConstHostData<float>(x);
  float* out = HostData<float>(y);
  ParallelPieces(x.shape.elements(), 1, [&](int64_t begin, int64_t end) {
    ops_.add_scaled(alpha, in + begin, out + begin, end - begin);
  });
}

void CpuBackend::ScaleRows(const Tensor& scale, Tensor x) {
  if (failed()) return;
  contract::ScaleRows(scale, x);
  const int64_t n = x.shape[0], d = x.shape[1];
  const float* scales = ConstHostData<float>(scale);
  float* data = HostData<float>(x);
  ParallelPieces(n, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ops_.scale(scales[i], data + i * d, d);
  });
}

void CpuBackend::ScaleAndCap(float scale, float cap, Tensor x) {
  if (failed()) return;
  contract::ScaleAndCap(x);
  float* data = HostData<float>(x);
  ParallelPieces(x.shape.elements(), 1, [&](int64_t begin, int64_t end) {
    ops_.scale_and_cap(scale, cap, data + begin, end - begin);
  });
}

void CpuBackend::ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) {
  if (failed()) return;
  contract::ScaleAndCapBackward(y, g);
  const float* ys = ConstHostData<float>(y);
  float* gs = HostData<float>(g);
  ParallelPieces(y.shape.elements(), 1, [&](int64_t begin, int64_t end) {
    ops_.scale_and_cap_backward(scale, cap, ys + begin, gs + begin, end - begin);
  });
}

}  // namespace cvxq
