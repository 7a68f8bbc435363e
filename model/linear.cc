// The linears of a block.
#include "model/layers.h"

namespace cvxq {
namespace {

const LinearWeight& WeightOf(const BlockContext& context, LinearId id) {
  return context.weights.linear[static_cast<int>(id)];
}

}  // namespace

Tensor ToCompute(const Tensor& x, DType compute, Backend& backend) {
  if (x.dtype == compute) return x;
  Tensor converted = backend.Allocate(compute, x.shape);
  backend.Convert(x, converted);
  return converted;
}

Tensor ApplyLinear(const BlockContext& context, LinearId id, const Tensor& x,
                   const LinearObserver* observer) {
  const LinearWeight& weight = WeightOf(context, id);
  Backend& backend = context.backend;
  if (observer != nullptr) (*observer)(id, x, Tensor{});
  Tensor y = backend.Allocate(DType::kF32, {x.shape[0], context.spec.rows(id)});
  if (weight.packed != nullptr) {
    backend.PackedLinear(ToCompute(x, DType::kF32, backend), *weight.packed, weight.bias, y);
  } else {
    backend.Linear(x, weight.dense, weight.bias, y);
  }
  return y;
}

void ApplyLinearBackward(const BlockContext& context, LinearId id, const Tensor& x,
                         const Tensor& gy, const LinearObserver* observer, Tensor gx,
                         bool accumulate) {
  const Tensor operand = ToCompute(gy, context.compute, context.backend);
  if (observer != nullptr) (*observer)(id, x, operand);
  context.backend.LinearBackward(operand, WeightOf(context, id).dense, gx, accumulate);
}

}  // namespace cvxq
