// Attention with grouped heads, rotary positions and norms of queries and keys.
#include "model/layers.h"

namespace cvxq {
namespace {

AttentionSpec SpecOf(const BlockContext& context) {
  const ArchSpec& spec = context.spec;
  return {.heads = spec.heads,
          .kv_heads = spec.kv_heads,
          .head_dim = spec.head_dim,
          .scale = static_cast<float>(spec.attention_scale),
          .window = context.layer.window,
          .softcap = static_cast<float>(spec.attention_softcap)};
}

// x [n, heads*head_dim] as [n*heads, head_dim]: a norm of queries or keys sees one head in a row.
Tensor HeadRows(const Tensor& x, int head_dim) {
  return x.Reshaped({x.shape.elements() / head_dim, head_dim});
}

// The norm of each head; `x` itself in a model without such norms.
Tensor HeadNorm(const BlockContext& context, const NormWeight& weight, const Tensor& x) {
  const ArchSpec& spec = context.spec;
  if (!spec.qk_norm) return x;
  Tensor y = context.backend.Allocate(DType::kF32, x.shape);
  context.backend.Norm(spec.qk_norm_kind, spec.norm_epsilon, HeadRows(x, spec.head_dim), weight.w,
                       weight.b, HeadRows(y, spec.head_dim));
  return y;
}

// The gradient through HeadNorm at `raw`; `g` itself in a model without such norms.
Tensor HeadNormBackward(const BlockContext& context, NormWeight BlockWeights::*norm,
                        const Tensor& raw, const Tensor& g) {
  const ArchSpec& spec = context.spec;
  if (!spec.qk_norm) return g;
  const Tensor x = HeadRows(raw, spec.head_dim), gy = HeadRows(g, spec.head_dim);
  if (context.norms != nullptr) (*context.norms)(norm, x, gy);
  Tensor gx = context.backend.Allocate(DType::kF32, g.shape);
  context.backend.NormBackward(spec.qk_norm_kind, spec.norm_epsilon, x, (context.weights.*norm).w,
                               gy, HeadRows(gx, spec.head_dim), /*accumulate=*/false);
  return gx;
}

void Rotate(const BlockContext& context, const Wave& wave, bool inverse, const Tensor& x) {
  if (context.layer.rope.kind == RopeKind::kNone) return;
  context.backend.Rope(context.layer.rope.kind, context.spec.head_dim, context.rope.cosine,
                       context.rope.sine, wave.position, wave.T, inverse, x);
}

// Writes the wave's rows into a cache and returns all rows up to them.
Tensor Remember(const Wave& wave, const Tensor& rows, const Tensor& cache, Backend& backend) {
  backend.Convert(rows, cache.Rows(wave.position, wave.position + wave.T));
  return cache.Rows(0, wave.position + wave.T);
}

}  // namespace

Tensor AttentionForward(const BlockContext& context, const Wave& wave, const Tensor& input,
                        const LinearObserver* observer, KeyValueCache* cache,
                        AttentionValues* values) {
  Backend& backend = context.backend;
  const Tensor query_raw = ApplyLinear(context, LinearId::kQuery, input, observer);
  const Tensor key_raw = ApplyLinear(context, LinearId::kKey, input, observer);
  Tensor value = ApplyLinear(context, LinearId::kValue, input, observer);

  const Tensor query = HeadNorm(context, context.weights.query_norm, query_raw);
  Tensor key = HeadNorm(context, context.weights.key_norm, key_raw);
  Rotate(context, wave, /*inverse=*/false, query);
  Rotate(context, wave, /*inverse=*/false, key);
  if (cache != nullptr) {
    key = Remember(wave, key, cache->keys, backend);
    value = Remember(wave, value, cache->values, backend);
  }

  const Tensor mixed = backend.Allocate(context.compute, query.shape);
  backend.Attention(SpecOf(context), wave.B, query, key, value, context.compute == DType::kBF16,
                    mixed);
  if (values != nullptr) *values = {input, query_raw, key_raw, query, key, value, mixed};
  return ApplyLinear(context, LinearId::kOutput, mixed, observer);
}

Tensor AttentionBackward(const BlockContext& context, const Wave& wave,
                         const AttentionValues& values, const Tensor& g,
                         const LinearObserver* observer) {
  Backend& backend = context.backend;
  Tensor gmixed = backend.Allocate(DType::kF32, values.mixed.shape);
  ApplyLinearBackward(context, LinearId::kOutput, values.mixed, g, observer, gmixed, false);

  Tensor gquery = backend.Allocate(DType::kF32, values.query.shape);
  Tensor gkey = backend.Allocate(DType::kF32, values.key.shape);
  const Tensor gvalue = backend.Allocate(DType::kF32, values.value.shape);
  backend.AttentionBackward(SpecOf(context), wave.B, values.query, values.key, values.value, gmixed,
                            context.compute == DType::kBF16, gquery, gkey, gvalue);
  Rotate(context, wave, /*inverse=*/true, gquery);
  Rotate(context, wave, /*inverse=*/true, gkey);
  gquery = HeadNormBackward(context, &BlockWeights::query_norm, values.query_raw, gquery);
  gkey = HeadNormBackward(context, &BlockWeights::key_norm, values.key_raw, gkey);

  Tensor ginput = backend.Allocate(DType::kF32, values.input.shape);
  ApplyLinearBackward(context, LinearId::kQuery, values.input, gquery, observer, ginput, false);
  ApplyLinearBackward(context, LinearId::kKey, values.input, gkey, observer, ginput, true);
  ApplyLinearBackward(context, LinearId::kValue, values.input, gvalue, observer, ginput, true);
  return ginput;
}

}  // namespace cvxq
