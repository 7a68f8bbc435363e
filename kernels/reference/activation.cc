// Activations and other elementwise operations.
#include <cmath>

#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {

using reference::Elements;

namespace {

struct ValueAndSlope {
  double value, slope;
};

ValueAndSlope Activate(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::kRelu:
      return x > 0 ? ValueAndSlope{x, 1} : ValueAndSlope{x * 0, 0};  // x * 0 keeps NaN
    case ActivationKind::kGelu: {
      const double cdf = 0.5 * (1 + std::erf(x * M_SQRT1_2));
      return {x * cdf, cdf + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI)};
    }
    case ActivationKind::kGeluTanh: {
      const double c = std::sqrt(2 / M_PI);
      const double t = std::tanh(c * (x + 0.044715 * x * x * x));
      return {0.5 * x * (1 + t),
              0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)};
    }
    case ActivationKind::kSilu: {
      const double s = 1 / (1 + std::exp(-x));
      return {x * s, s * (1 + x * (1 - s))};
    }
  }
  Require(false, "Activate: unknown kind");
  return {0, 0};
}

}  // namespace

void ReferenceBackend::Activation(ActivationKind kind, const Tensor& gate, const Tensor& up,
                                  Tensor y) {
  if (failed()) return;
  contract::Activation(gate, up, y);
  const Elements gates(gate), ups(up);
  Elements ys(y);
  for (int64_t i = 0; i < up.shape.elements(); ++i) {
    ys.Set(i,
           gates.empty() ? Activate(kind, ups[i]).value : Activate(kind, gates[i]).value * ups[i]);
  }
}

void ReferenceBackend::ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                                          const Tensor& gy, Tensor ggate, Tensor gup) {
  if (failed()) return;
  contract::ActivationBackward(gate, up, gy, ggate, gup);
  const Elements gates(gate), ups(up), gys(gy);
  Elements ggates(ggate), gups(gup);
  for (int64_t i = 0; i < up.shape.elements(); ++i) {
    const double g = gys[i];
    if (gates.empty()) {
      gups.Set(i, g * Activate(kind, ups[i]).slope);
    } else {
      const ValueAndSlope a = Activate(kind, gates[i]);
      ggates.Set(i, g * ups[i] * a.slope);
      gups.Set(i, g * a.value);
    }
  }
}

void ReferenceBackend::AddScaled(float alpha, const Tensor& x, Tensor y) {
  if (failed()) return;
  contract::AddScaled(x, y);
  const Elements xs(x);
  Elements ys(y);
  for (int64_t i = 0; i < x.shape.elements(); ++i) ys.Add(i, alpha * xs[i]);
}

void ReferenceBackend::ScaleRows(const Tensor& scale, Tensor x) {
  if (failed()) return;
  contract::ScaleRows(scale, x);
  const int64_t n = x.shape[0], d = x.shape[1];
  const Elements scales(scale);
  Elements xs(x);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < d; ++j) xs.Set(i * d + j, scales[i] * xs[i * d + j]);
  }
}

void ReferenceBackend::ScaleAndCap(float scale, float cap, Tensor x) {
  if (failed()) return;
  contract::ScaleAndCap(x);
  Elements xs(x);
  for (int64_t i = 0; i < x.shape.elements(); ++i) {
    const double scaled = scale * xs[i];
    xs.Set(i, cap > 0 ? cap * std::tanh(scaled / cap) : scaled);
  }
}

void ReferenceBackend::ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) {
  if (failed()) return;
  contract::ScaleAndCapBackward(y, g);
  const Elements ys(y);
  Elements gs(g);
  for (int64_t i = 0; i < y.shape.elements(); ++i) {
    const double t = cap > 0 ? ys[i] / cap : 0;
    gs.Set(i, gs[i] * scale * (1 - t * t));
  }
}

}  // namespace cvxq
