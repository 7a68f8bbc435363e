#include "model/block.h"

#include "model/layers.h"

namespace cvxq {
namespace {

using NormMember = NormWeight BlockWeights::*;

// The norm of the residual stream's rows x [n, D], as an operand of products.
Tensor NormOperand(const BlockContext& context, NormMember norm, const Tensor& x) {
  const NormWeight& weight = context.weights.*norm;
  Tensor y = context.backend.Allocate(context.compute, x.shape);
  context.backend.Norm(context.spec.norm, context.spec.norm_epsilon, x, weight.w, weight.b, y);
  return y;
}

// y = norm(x), float.
void Norm(const BlockContext& context, NormMember norm, const Tensor& x, Tensor y) {
  const NormWeight& weight = context.weights.*norm;
  context.backend.Norm(context.spec.norm, context.spec.norm_epsilon, x, weight.w, weight.b, y);
}

// gx = or += the gradient through the norm at x. Tells the observer.
void NormBackward(const BlockContext& context, NormMember norm, const Tensor& x, const Tensor& gy,
                  Tensor gx, bool accumulate) {
  if (context.norms != nullptr) (*context.norms)(norm, x, gy);
  context.backend.NormBackward(context.spec.norm, context.spec.norm_epsilon, x,
                               (context.weights.*norm).w, gy, gx, accumulate);
}

Tensor Like(const BlockContext& context, const Tensor& x) {
  return context.backend.Allocate(DType::kF32, x.shape);
}

// What a half of the block reads from the residual stream x.
Tensor HalfInput(const BlockContext& context, NormMember norm, const Tensor& x) {
  return context.spec.residual == ResidualKind::kPost
             ? ToCompute(x, context.compute, context.backend)
             : NormOperand(context, norm, x);
}

// Takes the output of a half back into the residual stream x. kPost leaves the sum that the norm
// saw in `out`.
void HalfOutput(const BlockContext& context, NormMember norm, NormMember norm_post, Tensor out,
                Tensor x) {
  Backend& backend = context.backend;
  switch (context.spec.residual) {
    case ResidualKind::kPre:
    case ResidualKind::kParallel:
      backend.AddScaled(1, out, x);
      break;
    case ResidualKind::kPost:
      backend.AddScaled(1, x, out);
      Norm(context, norm, out, x);
      break;
    case ResidualKind::kSandwich: {
      Tensor normed = Like(context, out);
      Norm(context, norm_post, out, normed);
      backend.AddScaled(1, normed, x);
      break;
    }
  }
}

// The gradient that reaches a half: g is that of the stream behind it, `out` what HalfOutput left.
// After it, g holds the gradient that flows past the half.
Tensor HalfOutputBackward(const BlockContext& context, NormMember norm, NormMember norm_post,
                          const Tensor& out, Tensor& g) {
  switch (context.spec.residual) {
    case ResidualKind::kPre:
    case ResidualKind::kParallel:
      break;
    case ResidualKind::kPost: {
      Tensor gsum = Like(context, g);
      NormBackward(context, norm, out, g, gsum, /*accumulate=*/false);
      context.backend.Convert(gsum, g);
      break;
    }
    case ResidualKind::kSandwich: {
      Tensor gout = Like(context, g);
      NormBackward(context, norm_post, out, g, gout, /*accumulate=*/false);
      return gout;
    }
  }
  return g;
}

// Adds to g the gradient that comes back out of a half's input: ginput with respect to HalfInput
// of the stream x.
void HalfInputBackward(const BlockContext& context, NormMember norm, const Tensor& x,
                       const Tensor& ginput, Tensor g) {
  if (context.spec.residual == ResidualKind::kPost) {
    context.backend.AddScaled(1, ginput, g);
  } else {
    NormBackward(context, norm, x, ginput, g, /*accumulate=*/true);
  }
}

// kParallel: both halves read the same norm and add to the same stream.
void ParallelForward(const BlockContext& context, const Wave& wave, Tensor x,
                     const LinearObserver* observer, KeyValueCache* cache) {
  const Tensor input = NormOperand(context, &BlockWeights::norm1, x);
  const Tensor attention = AttentionForward(context, wave, input, observer, cache, nullptr);
  const Tensor mlp = MlpForward(context, input, observer, /*output=*/true, nullptr);
  context.backend.AddScaled(1, attention, x);
  context.backend.AddScaled(1, mlp, x);
}

void ParallelBackward(const BlockContext& context, const Wave& wave, const Tensor& x, Tensor g,
                      const LinearObserver* observer) {
  const Tensor input = NormOperand(context, &BlockWeights::norm1, x);
  AttentionValues attention;
  AttentionForward(context, wave, input, nullptr, nullptr, &attention);
  MlpValues mlp;
  MlpForward(context, input, nullptr, /*output=*/false, &mlp);

  const Tensor ginput = MlpBackward(context, mlp, g, observer);
  context.backend.AddScaled(1, AttentionBackward(context, wave, attention, g, observer), ginput);
  NormBackward(context, &BlockWeights::norm1, x, ginput, g, /*accumulate=*/true);
}

}  // namespace

void BlockForward(const BlockContext& context, const Wave& wave, Tensor x,
                  const LinearObserver* observer, KeyValueCache* cache) {
  if (context.spec.residual == ResidualKind::kParallel) {
    ParallelForward(context, wave, x, observer, cache);
    return;
  }
  const Tensor attention = AttentionForward(
      context, wave, HalfInput(context, &BlockWeights::norm1, x), observer, cache, nullptr);
  HalfOutput(context, &BlockWeights::norm1, &BlockWeights::norm1_post, attention, x);
  const Tensor mlp = MlpForward(context, HalfInput(context, &BlockWeights::norm2, x), observer,
                                /*output=*/true, nullptr);
  HalfOutput(context, &BlockWeights::norm2, &BlockWeights::norm2_post, mlp, x);
}

void BlockBackward(const BlockContext& context, const Wave& wave, const Tensor& x, Tensor g,
                   const LinearObserver* observer) {
  if (context.spec.residual == ResidualKind::kParallel) {
    ParallelBackward(context, wave, x, g, observer);
    return;
  }
  // Forward once more, keeping the values: x -> middle -> output. Of the MLP's output only the
  // norms behind it have use.
  AttentionValues attention;
  const Tensor attention_out = AttentionForward(
      context, wave, HalfInput(context, &BlockWeights::norm1, x), nullptr, nullptr, &attention);
  Tensor middle = Like(context, x);
  context.backend.Convert(x, middle);
  HalfOutput(context, &BlockWeights::norm1, &BlockWeights::norm1_post, attention_out, middle);
  MlpValues mlp;
  const bool normed_output = context.spec.residual != ResidualKind::kPre;
  const Tensor mlp_out = MlpForward(context, HalfInput(context, &BlockWeights::norm2, middle),
                                    nullptr, normed_output, &mlp);
  if (context.spec.residual == ResidualKind::kPost) context.backend.AddScaled(1, middle, mlp_out);

  const Tensor gmlp =
      HalfOutputBackward(context, &BlockWeights::norm2, &BlockWeights::norm2_post, mlp_out, g);
  HalfInputBackward(context, &BlockWeights::norm2, middle,
                    MlpBackward(context, mlp, gmlp, observer), g);
  const Tensor gattention = HalfOutputBackward(context, &BlockWeights::norm1,
                                               &BlockWeights::norm1_post, attention_out, g);
  HalfInputBackward(context, &BlockWeights::norm1, x,
                    AttentionBackward(context, wave, attention, gattention, observer), g);
}

}  // namespace cvxq
