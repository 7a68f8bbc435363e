// Rotary positions and attention.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {

using reference::Elements;

void ReferenceBackend::Rope(RopeKind kind, int64_t head_dim, const Tensor& cosine,
                            const Tensor& sine, int64_t position, int64_t T, bool inverse,
                            Tensor x) {
  if (failed() || kind == RopeKind::kNone) return;
  contract::Rope(head_dim, cosine, sine, position, T, x);
  const int64_t n = x.shape[0], heads = x.shape[1] / head_dim, half = head_dim / 2;
  const Elements cosines(cosine), sines(sine);
  Elements xs(x);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < half; ++j) {
        const int64_t at = (position + i % T) * half + j;
        const double c = cosines[at], s = inverse ? -sines[at] : sines[at];
        const int64_t head = (i * heads + h) * head_dim;
        const int64_t first = head + (kind == RopeKind::kHalf ? j : 2 * j);
        const int64_t second = head + (kind == RopeKind::kHalf ? j + half : 2 * j + 1);
        const double a = xs[first], b = xs[second];
        xs.Set(first, a * c - b * s);
        xs.Set(second, b * c + a * s);
      }
    }
  }
}

namespace {

// One query of one head: the keys it sees, their probabilities, and the slope of the soft cap.
struct Query {
  int64_t begin = 0, end = 0;  // keys
  std::vector<double> p;       // probabilities of keys [begin, end)
  std::vector<double> slope;   // d(capped score) / d(scaled score)
};

// q points at the query's first element, k at the first element of key 0 of its head.
Query Probabilities(const AttentionSpec& spec, int64_t key_position, const Elements& qs, int64_t q,
                    const Elements& ks, int64_t k, int64_t kv_width) {
  Query query;
  query.end = key_position + 1;
  query.begin = spec.window > 0 ? std::max<int64_t>(0, query.end - spec.window) : 0;
  double max = -INFINITY, total = 0;
  for (int64_t t = query.begin; t < query.end; ++t) {
    double score = 0;
    for (int d = 0; d < spec.head_dim; ++d) score += qs[q + d] * ks[k + t * kv_width + d];
    score *= spec.scale;
    const double capped = spec.softcap > 0 ? std::tanh(score / spec.softcap) : 0;
    query.slope.push_back(1 - capped * capped);
    query.p.push_back(spec.softcap > 0 ? spec.softcap * capped : score);
    max = std::max(max, query.p.back());
  }
  for (double& p : query.p) total += p = std::exp(p - max);
  for (double& p : query.p) p /= total;
  return query;
}

}  // namespace

void ReferenceBackend::Attention(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                 const Tensor& k, const Tensor& v, bool /*compute_bf16*/,
                                 Tensor y) {
  if (failed()) return;
  contract::Attention(spec, B, q, k, v, y);
  const int64_t Tq = q.shape[0] / B, Tk = k.shape[0] / B, d = spec.head_dim;
  const int64_t width = q.shape[1], kv_width = k.shape[1];
  const Elements qs(q), ks(k), vs(v);
  Elements ys(y);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < spec.heads; ++h) {
      const int64_t kv = b * Tk * kv_width + h / (spec.heads / spec.kv_heads) * d;
      for (int64_t t = 0; t < Tq; ++t) {
        const int64_t row = (b * Tq + t) * width + h * d;
        const Query query = Probabilities(spec, Tk - Tq + t, qs, row, ks, kv, kv_width);
        for (int64_t j = 0; j < d; ++j) {
          double sum = 0;
          for (int64_t s = query.begin; s < query.end; ++s) {
            sum += query.p[s - query.begin] * vs[kv + s * kv_width + j];
          }
          ys.Set(row + j, sum);
        }
      }
    }
  }
}

// With scores s, p = softmax(cap(scale s)), y = p v:
//   gp = gy v^T, gs = scale slope p (gp - sum p gp), gq = gs k, gk = gs^T q, gv = p^T gy.
void ReferenceBackend::AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                         const Tensor& k, const Tensor& v, const Tensor& gy,
                                         bool /*compute_bf16*/, Tensor gq, Tensor gk, Tensor gv) {
  if (failed()) return;
  contract::AttentionBackward(spec, B, q, k, v, gy, gq, gk, gv);
  const int64_t T = q.shape[0] / B, d = spec.head_dim;
  const int64_t width = q.shape[1], kv_width = k.shape[1];
  const Elements qs(q), ks(k), vs(v), gys(gy);
  std::vector<double> gq_sum(q.shape.elements()), gk_sum(k.shape.elements()),
      gv_sum(v.shape.elements());
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < spec.heads; ++h) {
      const int64_t kv = b * T * kv_width + h / (spec.heads / spec.kv_heads) * d;
      for (int64_t t = 0; t < T; ++t) {
        const int64_t row = (b * T + t) * width + h * d;
        const Query query = Probabilities(spec, t, qs, row, ks, kv, kv_width);
        std::vector<double> gp(query.p.size());
        double mean = 0;
        for (size_t s = 0; s < gp.size(); ++s) {
          const int64_t key = kv + (query.begin + s) * kv_width;
          for (int64_t j = 0; j < d; ++j) gp[s] += gys[row + j] * vs[key + j];
          mean += query.p[s] * gp[s];
        }
        for (size_t s = 0; s < gp.size(); ++s) {
          const int64_t key = kv + (query.begin + s) * kv_width;
          const double gs = spec.scale * query.slope[s] * query.p[s] * (gp[s] - mean);
          for (int64_t j = 0; j < d; ++j) {
            gq_sum[row + j] += gs * ks[key + j];
            gk_sum[key + j] += gs * qs[row + j];
            gv_sum[key + j] += query.p[s] * gys[row + j];
          }
        }
      }
    }
  }
  Elements gqs(gq), gks(gk), gvs(gv);
  for (size_t i = 0; i < gq_sum.size(); ++i) gqs.Set(i, gq_sum[i]);
  for (size_t i = 0; i < gk_sum.size(); ++i) gks.Set(i, gk_sum[i]);
  for (size_t i = 0; i < gv_sum.size(); ++i) gvs.Set(i, gv_sum[i]);
}

}  // namespace cvxq
