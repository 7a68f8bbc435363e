// The output distribution: sampled labels, likelihood, divergence.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {

using reference::Elements;

namespace {

// log softmax of row i of [n, V].
std::vector<double> LogSoftmax(const Elements& logits, int64_t i, int64_t V) {
  std::vector<double> out(V);
  double max = -INFINITY, total = 0;
  for (int64_t j = 0; j < V; ++j) max = std::max(max, out[j] = logits[i * V + j]);
  for (double x : out) total += std::exp(x - max);
  for (double& x : out) x -= max + std::log(total);
  return out;
}

// The first index of the largest logit of row i.
int64_t ArgMax(const Elements& logits, int64_t i, int64_t V) {
  int64_t best = 0;
  for (int64_t j = 1; j < V; ++j) {
    if (logits[i * V + j] > logits[i * V + best]) best = j;
  }
  return best;
}

}  // namespace

// The label is the first index whose cumulative probability exceeds the uniform number; where
// rounding leaves none, the last index of positive probability. A row with a NaN (or with +Inf, or
// nothing but -Inf) has no distribution: its gradient is NaN.
void ReferenceBackend::SampleLabelGradient(const Tensor& logits, uint64_t key,
                                           uint64_t first_counter, Tensor g) {
  if (failed()) return;
  contract::SampleLabelGradient(logits, g);
  const int64_t n = logits.shape[0], V = logits.shape[1];
  const Elements rows(logits);
  Elements gs(g);
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> p = LogSoftmax(rows, i, V);
    for (double& x : p) x = std::exp(x);
    const double u = RandomUniform(key, first_counter + i);
    double cumulative = 0;
    int64_t label = 0;
    for (int64_t j = 0; j < V && cumulative <= u; ++j) {
      cumulative += p[j];
      if (p[j] > 0) label = j;
    }
    for (int64_t j = 0; j < V; ++j) gs.Set(i * V + j, (j == label ? 1 : 0) - p[j]);
  }
}

void ReferenceBackend::NegativeLogLikelihood(const Tensor& logits, const Tensor& targets,
                                             Tensor nll) {
  if (failed()) return;
  contract::NegativeLogLikelihood(logits, targets, nll);
  const int64_t n = logits.shape[0], V = logits.shape[1];
  const Elements rows(logits);
  const int32_t* target = ConstHostData<int32_t>(targets);
  Elements out(nll);
  for (int64_t i = 0; i < n; ++i) {
    Require(target[i] >= 0 && target[i] < V, "NegativeLogLikelihood: a target is outside V");
    out.Set(i, -LogSoftmax(rows, i, V)[target[i]]);
  }
}

void ReferenceBackend::KlDivergence(const Tensor& reference, const Tensor& logits, Tensor kl,
                                    Tensor agree) {
  if (failed()) return;
  contract::KlDivergence(reference, logits, kl, agree);
  const int64_t n = logits.shape[0], V = logits.shape[1];
  const Elements references(reference), rows(logits);
  Elements kls(kl), agrees(agree);
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> p = LogSoftmax(references, i, V), q = LogSoftmax(rows, i, V);
    double sum = 0;
    for (int64_t j = 0; j < V; ++j) {
      // A masked logit (-Inf in the reference) adds nothing.
      if (p[j] != -INFINITY) sum += std::exp(p[j]) * (p[j] - q[j]);
    }
    kls.Set(i, sum);
    agrees.Set(i, ArgMax(references, i, V) == ArgMax(rows, i, V) ? 1 : 0);
  }
}

void ReferenceBackend::KlGradient(const Tensor& reference, const Tensor& logits, Tensor g) {
  if (failed()) return;
  contract::KlGradient(reference, logits, g);
  const int64_t n = logits.shape[0], V = logits.shape[1];
  const Elements references(reference), rows(logits);
  Elements gs(g);
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> p = LogSoftmax(references, i, V), q = LogSoftmax(rows, i, V);
    for (int64_t j = 0; j < V; ++j) gs.Set(i * V + j, std::exp(q[j]) - std::exp(p[j]));
  }
}

}  // namespace cvxq
