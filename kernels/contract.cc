#include "kernels/contract.h"

#include <cstdio>
#include <cstdlib>

namespace cvxq {

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "cvxq: internal error: %s\n", what);
  std::abort();
}

namespace contract {
namespace {

bool IsFloat(const Tensor& t) { return !t.empty() && t.dtype == DType::kF32; }
bool IsCompute(const Tensor& t) {
  return !t.empty() && (t.dtype == DType::kF32 || t.dtype == DType::kBF16);
}
bool IsAnyFloat(const Tensor& t) { return IsCompute(t) || (!t.empty() && t.dtype == DType::kF16); }
bool IsInt32(const Tensor& t) { return !t.empty() && t.dtype == DType::kI32; }
bool Is(const Tensor& t, const Shape& shape) { return t.shape == shape; }
bool IsMatrix(const Tensor& t) { return t.shape.rank() == 2; }
int64_t Count(const Tensor& t) { return t.shape.elements(); }

// A group map of `size` entries onto `groups`, or the identity.
bool IsGroupMap(const Tensor& map, int64_t size, int64_t groups) {
  return map.empty() ? groups == size : IsInt32(map) && Is(map, {size}) && groups >= 1;
}

// A weight [d] or [h,d] for rows of d; may be absent.
bool IsNormWeight(const Tensor& w, int64_t d) {
  if (w.empty()) return true;
  const int rank = w.shape.rank();
  return IsFloat(w) && (rank == 1 || rank == 2) && w.shape[rank - 1] == d && Count(w) >= d;
}

}  // namespace

void Convert(const Tensor& src, const Tensor& dst) {
  Require(IsAnyFloat(src) && IsAnyFloat(dst) && Count(src) == Count(dst), "Convert: operands");
}

void Linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  Require(IsCompute(x) && IsCompute(w) && x.dtype == w.dtype && IsFloat(y), "Linear: dtypes");
  Require(IsMatrix(x) && IsMatrix(w) && x.shape[1] == w.shape[1] && Is(y, {x.shape[0], w.shape[0]}),
          "Linear: shapes");
  Require(bias.empty() || (IsFloat(bias) && Is(bias, {w.shape[0]})), "Linear: bias");
}

void LinearBackward(const Tensor& gy, const Tensor& w, const Tensor& gx) {
  Require(IsCompute(gy) && IsCompute(w) && gy.dtype == w.dtype && IsFloat(gx),
          "LinearBackward: dtypes");
  Require(
      IsMatrix(gy) && IsMatrix(w) && gy.shape[1] == w.shape[0] && Is(gx, {gy.shape[0], w.shape[1]}),
      "LinearBackward: shapes");
}

void PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias, const Tensor& y) {
  Require(IsFloat(x) && IsFloat(y), "PackedLinear: dtypes");
  Require(IsMatrix(x) && x.shape[1] == w.columns && Is(y, {x.shape[0], w.rows}),
          "PackedLinear: shapes");
  Require(bias.empty() || (IsFloat(bias) && Is(bias, {w.rows})), "PackedLinear: bias");
}

void Unpack(const PackedWeight& packed, const Tensor& w) {
  Require(IsCompute(w) && Is(w, {packed.rows, packed.columns}), "Unpack: operands");
}

void AddSecondMoment(const Tensor& x, const Tensor& h) {
  Require(IsCompute(x) && IsFloat(h) && IsMatrix(x) && Is(h, {x.shape[1], x.shape[1]}),
          "AddSecondMoment: operands");
}

void AddBlockSecondMoment(const Tensor& x, const Tensor& h) {
  Require(IsCompute(x) && IsFloat(h) && IsMatrix(x) && h.shape.rank() == 3,
          "AddBlockSecondMoment: operands");
  const int64_t b = h.shape[2];
  Require(b >= 1 && Is(h, {(x.shape[1] + b - 1) / b, b, b}), "AddBlockSecondMoment: shape of h");
}

void AddColumnSums(const Tensor& x, const Tensor& sums) {
  Require(IsCompute(x) && IsFloat(sums) && IsMatrix(x) && Is(sums, {x.shape[1]}),
          "AddColumnSums: operands");
}

void AddRowSquares(const Tensor& x, const Tensor& sums) {
  Require(IsCompute(x) && IsFloat(sums) && IsMatrix(x) && Is(sums, {x.shape[0]}),
          "AddRowSquares: operands");
}

void AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                        const Tensor& column_group, const Tensor& sums) {
  Require(IsCompute(gy) && IsCompute(x) && gy.dtype == x.dtype && IsFloat(sums),
          "AddSquaredGradient: dtypes");
  Require(IsMatrix(gy) && IsMatrix(x) && IsMatrix(sums) && gy.shape[0] == x.shape[0],
          "AddSquaredGradient: shapes");
  const int64_t A = sums.shape[0], B = sums.shape[1];
  Require(IsGroupMap(row_group, gy.shape[1], A) && IsGroupMap(column_group, x.shape[1], B),
          "AddSquaredGradient: groups");
  Require(row_group.empty() || column_group.empty() || A == 1 || B == 1,
          "AddSquaredGradient: groups along both axes");
}

void Embed(const Tensor& table, const Tensor& ids, const Tensor& y) {
  Require(IsAnyFloat(table) && IsInt32(ids) && IsFloat(y) && IsMatrix(table) &&
              Is(y, {Count(ids), table.shape[1]}),
          "Embed: operands");
}

void AddPositions(const Tensor& table, int64_t position, int64_t T, const Tensor& y) {
  Require(IsAnyFloat(table) && IsFloat(y) && IsMatrix(table) && IsMatrix(y) &&
              y.shape[1] == table.shape[1],
          "AddPositions: operands");
  Require(T > 0 && y.shape[0] % T == 0 && position >= 0 && position + T <= table.shape[0],
          "AddPositions: positions");
}

void Norm(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& y) {
  Require(IsFloat(x) && IsCompute(y) && IsMatrix(x) && Is(y, x.shape), "Norm: operands");
  Require(IsNormWeight(w, x.shape[1]) && IsNormWeight(b, x.shape[1]), "Norm: weight or bias");
}

void NormBackward(const Tensor& x, const Tensor& w, const Tensor& gy, const Tensor& gx) {
  Require(IsFloat(x) && IsFloat(gy) && IsFloat(gx) && IsMatrix(x) && Is(gy, x.shape) &&
              Is(gx, x.shape) && IsNormWeight(w, x.shape[1]),
          "NormBackward: operands");
}

void AddNormGradient(const Tensor& x, const Tensor& gy, const Tensor& gw) {
  Require(IsFloat(x) && IsFloat(gy) && IsMatrix(x) && Is(gy, x.shape) && !gw.empty() &&
              IsNormWeight(gw, x.shape[1]),
          "AddNormGradient: operands");
}

void Rope(int64_t head_dim, const Tensor& cosine, const Tensor& sine, int64_t position, int64_t T,
          const Tensor& x) {
  Require(IsFloat(x) && IsFloat(cosine) && IsFloat(sine) && IsMatrix(x) && IsMatrix(cosine) &&
              Is(sine, cosine.shape),
          "Rope: operands");
  Require(head_dim > 0 && head_dim % 2 == 0 && x.shape[1] % head_dim == 0 &&
              cosine.shape[1] == head_dim / 2,
          "Rope: head_dim");
  Require(T > 0 && x.shape[0] % T == 0 && position >= 0 && position + T <= cosine.shape[0],
          "Rope: positions");
}

void Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& y) {
  Require(IsFloat(q) && IsFloat(k) && IsFloat(v) && IsCompute(y), "Attention: dtypes");
  Require(spec.heads > 0 && spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0 &&
              spec.head_dim > 0 && spec.window >= 0,
          "Attention: spec");
  const int64_t width = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv_width = int64_t{spec.kv_heads} * spec.head_dim;
  Require(IsMatrix(q) && IsMatrix(k) && q.shape[1] == width && k.shape[1] == kv_width &&
              Is(v, k.shape) && Is(y, q.shape),
          "Attention: shapes");
  Require(B > 0 && q.shape[0] % B == 0 && k.shape[0] % B == 0 && q.shape[0] <= k.shape[0],
          "Attention: tokens");
}

void AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& gy, const Tensor& gq, const Tensor& gk,
                       const Tensor& gv) {
  Attention(spec, B, q, k, v, gy);
  Require(IsFloat(gy) && IsFloat(gq) && IsFloat(gk) && IsFloat(gv) && Is(gq, q.shape) &&
              Is(gk, k.shape) && Is(gv, k.shape) && q.shape[0] == k.shape[0],
          "AttentionBackward: operands");
}

void Activation(const Tensor& gate, const Tensor& up, const Tensor& y) {
  Require(IsFloat(up) && IsCompute(y) && Count(y) == Count(up), "Activation: operands");
  Require(gate.empty() || (IsFloat(gate) && Count(gate) == Count(up)), "Activation: gate");
}

void ActivationBackward(const Tensor& gate, const Tensor& up, const Tensor& gy, const Tensor& ggate,
                        const Tensor& gup) {
  Require(IsFloat(up) && IsFloat(gy) && IsFloat(gup) && Count(gy) == Count(up) &&
              Count(gup) == Count(up),
          "ActivationBackward: operands");
  Require(gate.empty() || (IsFloat(gate) && IsFloat(ggate) && Count(gate) == Count(up) &&
                           Count(ggate) == Count(up)),
          "ActivationBackward: gate");
}

void AddScaled(const Tensor& x, const Tensor& y) {
  Require(IsFloat(x) && IsFloat(y) && Count(x) == Count(y), "AddScaled: operands");
}

void ScaleRows(const Tensor& scale, const Tensor& x) {
  Require(IsFloat(scale) && IsFloat(x) && IsMatrix(x) && Count(scale) == x.shape[0],
          "ScaleRows: operands");
}

void ScaleAndCap(const Tensor& x) { Require(IsFloat(x), "ScaleAndCap: operand"); }

void ScaleAndCapBackward(const Tensor& y, const Tensor& g) {
  Require(IsFloat(y) && IsFloat(g) && Count(y) == Count(g), "ScaleAndCapBackward: operands");
}

void SampleLabelGradient(const Tensor& logits, const Tensor& g) {
  Require(IsFloat(logits) && IsCompute(g) && IsMatrix(logits) && Is(g, logits.shape) &&
              logits.shape[1] > 0,
          "SampleLabelGradient: operands");
}

void NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, const Tensor& nll) {
  Require(IsFloat(logits) && IsInt32(targets) && IsFloat(nll) && IsMatrix(logits) &&
              Count(targets) == logits.shape[0] && Count(nll) == logits.shape[0],
          "NegativeLogLikelihood: operands");
}

void KlDivergence(const Tensor& reference, const Tensor& logits, const Tensor& kl,
                  const Tensor& agree) {
  Require(IsFloat(reference) && IsFloat(logits) && IsFloat(kl) && IsFloat(agree) &&
              IsMatrix(logits) && Is(reference, logits.shape) && Count(kl) == logits.shape[0] &&
              Count(agree) == logits.shape[0],
          "KlDivergence: operands");
}

void KlGradient(const Tensor& reference, const Tensor& logits, const Tensor& g) {
  Require(IsFloat(reference) && IsFloat(logits) && IsFloat(g) && IsMatrix(logits) &&
              Is(reference, logits.shape) && Is(g, logits.shape) && logits.shape[1] > 0,
          "KlGradient: operands");
}

}  // namespace contract
}  // namespace cvxq
