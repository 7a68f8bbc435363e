// The output distribution: sampled labels, likelihood, divergence.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"

namespace cvxq {
namespace {

// Sums over the vocabulary are of floats within a chunk and of doubles over chunks.
constexpr int64_t kChunk = 1024;

int64_t ChunkCount(int64_t V) { return (V + kChunk - 1) / kChunk; }

// Sum of exp(x - max); stores the terms and the sums of their chunks where those are not null.
double ExpSum(const VectorOps& ops, const float* x, float max, int64_t V, float* terms = nullptr,
              float* chunks = nullptr) {
  double total = 0;
  for (int64_t c = 0; c < ChunkCount(V); ++c) {
    const int64_t j = c * kChunk;
    const float sum =
        ops.exp_sum(x + j, max, terms == nullptr ? nullptr : terms + j, std::min(kChunk, V - j));
    if (chunks != nullptr) chunks[c] = sum;
    total += sum;
  }
  return total;
}

// The first index at which the running sum of the terms exceeds `target` (below their total): the
// first such chunk, and within it the first such term, or the last positive one where rounding
// leaves none. 0 where there is no such chunk (NaN).
int64_t Draw(const float* terms, const float* chunks, double target, int64_t V) {
  double cumulative = 0;
  for (int64_t c = 0; c < ChunkCount(V); ++c) {
    if (!(cumulative + chunks[c] > target)) {
      cumulative += chunks[c];
      continue;
    }
    int64_t label = c * kChunk;
    const int64_t end = std::min(V, label + kChunk);
    for (int64_t j = label; j < end && cumulative <= target; ++j) {
      cumulative += terms[j];
      if (terms[j] > 0) label = j;
    }
    return label;
  }
  return 0;
}

int64_t FirstEqual(const float* x, float value, int64_t V) {
  return std::find(x, x + V, value) - x;
}

}  // namespace

void CpuBackend::SampleLabelGradient(const Tensor& logits, uint64_t key, uint64_t first_counter,
                                     Tensor g) {
  if (failed()) return;
  contract::SampleLabelGradient(logits, g);
  const int64_t V = logits.shape[1];
  const float* rows = ConstHostData<float>(logits);
  pool_.ParallelFor(logits.shape[0], [&](int64_t i) {
    const bool is_float = g.dtype == DType::kF32;
    float* row = is_float ? HostData<float>(g) + i * V : FloatScratch(2, V);
    const float* x = rows + i * V;
    float* chunks = FloatScratch(3, ChunkCount(V));
    const double total = ExpSum(ops_, x, ops_.max(x, V), V, row, chunks);
    const int64_t label = Draw(row, chunks, RandomUniform(key, first_counter + i) * total, V);
    ops_.scale(static_cast<float>(-1 / total), row, V);
    row[label] += 1;
    if (!is_float) ops_.float_to_bf16(row, HostData<uint16_t>(g) + i * V, V);
  });
}

void CpuBackend::NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, Tensor nll) {
  if (failed()) return;
  contract::NegativeLogLikelihood(logits, targets, nll);
  const int64_t V = logits.shape[1];
  const float* rows = ConstHostData<float>(logits);
  const int32_t* target = ConstHostData<int32_t>(targets);
  float* out = HostData<float>(nll);
  pool_.ParallelFor(logits.shape[0], [&](int64_t i) {
    Require(target[i] >= 0 && target[i] < V, "NegativeLogLikelihood: a target is outside V");
    const float* x = rows + i * V;
    const float max = ops_.max(x, V);
    const double shifted = static_cast<double>(x[target[i]]) - max;
    out[i] = static_cast<float>(std::log(ExpSum(ops_, x, max, V)) - shifted);
  });
}

// With totals P = sum e^(p - max_p) and Q alike:
//   KL = sum e^(p - max_p) (p - q - (max_p - max_q)) / P - log P + log Q.
void CpuBackend::KlDivergence(const Tensor& reference, const Tensor& logits, Tensor kl,
                              Tensor agree) {
  if (failed()) return;
  contract::KlDivergence(reference, logits, kl, agree);
  const int64_t V = logits.shape[1];
  const float *reference_rows = ConstHostData<float>(reference),
              *rows = ConstHostData<float>(logits);
  float *kls = HostData<float>(kl), *agrees = HostData<float>(agree);
  pool_.ParallelFor(logits.shape[0], [&](int64_t i) {
    const float *p = reference_rows + i * V, *q = rows + i * V;
    const float max_p = ops_.max(p, V), max_q = ops_.max(q, V);
    const double total_p = ExpSum(ops_, p, max_p, V);
    const double total_q = ExpSum(ops_, q, max_q, V);
    double sum = 0;
    for (int64_t j = 0; j < V; j += kChunk) {
      sum += ops_.divergence_sum(p + j, q + j, max_p, max_p - max_q, std::min(kChunk, V - j));
    }
    kls[i] = static_cast<float>(sum / total_p - std::log(total_p) + std::log(total_q));
    agrees[i] = FirstEqual(p, max_p, V) == FirstEqual(q, max_q, V) ? 1 : 0;
  });
}

void CpuBackend::KlGradient(const Tensor& reference, const Tensor& logits, Tensor g) {
  if (failed()) return;
  contract::KlGradient(reference, logits, g);
  const int64_t V = logits.shape[1];
  const float *reference_rows = ConstHostData<float>(reference),
              *rows = ConstHostData<float>(logits);
  float* out = HostData<float>(g);
  pool_.ParallelFor(logits.shape[0], [&](int64_t i) {
    const float *p = reference_rows + i * V, *q = rows + i * V;
    float *terms_p = FloatScratch(2, V), *terms_q = out + i * V;
    const double total_p = ExpSum(ops_, p, ops_.max(p, V), V, terms_p);
    const double total_q = ExpSum(ops_, q, ops_.max(q, V), V, terms_q);
    ops_.scale(static_cast<float>(1 / total_q), terms_q, V);
    ops_.add_scaled(static_cast<float>(-1 / total_p), terms_p, terms_q, V);
  });
}

}  // namespace cvxq
