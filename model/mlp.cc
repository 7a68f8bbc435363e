// The MLP: down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate.
#include "model/layers.h"

namespace cvxq {

Tensor MlpForward(const BlockContext& context, const Tensor& input, const LinearObserver* observer,
                  bool output, MlpValues* values) {
  Backend& backend = context.backend;
  Tensor gate;
  if (context.spec.gated) gate = ApplyLinear(context, LinearId::kGate, input, observer);
  const Tensor up = ApplyLinear(context, LinearId::kUp, input, observer);
  const Tensor activated = backend.Allocate(context.compute, up.shape);
  backend.Activation(context.spec.activation, gate, up, activated);
  if (values != nullptr) *values = {input, gate, up, activated};
  return output ? ApplyLinear(context, LinearId::kDown, activated, observer) : Tensor{};
}

Tensor MlpBackward(const BlockContext& context, const MlpValues& values, const Tensor& g,
                   const LinearObserver* observer) {
  Backend& backend = context.backend;
  const Tensor gup = backend.Allocate(DType::kF32, values.up.shape);
  ApplyLinearBackward(context, LinearId::kDown, values.activated, g, observer, gup, false);

  Tensor ggate;
  if (context.spec.gated) ggate = backend.Allocate(DType::kF32, values.gate.shape);
  // gup is at first the gradient of the activation, and becomes that of up in place.
  backend.ActivationBackward(context.spec.activation, values.gate, values.up, gup, ggate, gup);

  Tensor ginput = backend.Allocate(DType::kF32, values.input.shape);
  if (context.spec.gated) {
    ApplyLinearBackward(context, LinearId::kGate, values.input, ggate, observer, ginput, false);
  }
  ApplyLinearBackward(context, LinearId::kUp, values.input, gup, observer, ginput,
                      /*accumulate=*/context.spec.gated);
  return ginput;
}

}  // namespace cvxq
