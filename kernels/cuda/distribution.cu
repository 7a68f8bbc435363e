// The output distribution: sampled labels, likelihood, divergence. A block has one row; sums over
// the vocabulary are of floats within a thread or chunk, of doubles beyond.
#include <cmath>

#include "base/random.h"
#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// Labels are drawn by chunks: at most kChunks, of a multiple of kWarp elements.
constexpr int64_t kChunks = 1024;
__host__ __device__ constexpr int64_t ChunkSize(int64_t V) {
  return CeilDiv(CeilDiv(V, kChunks), kWarp) * kWarp;
}

// Over a row by the whole block; all threads get the result.
__device__ float RowMax(const float* x, int64_t V, float* scratch) {
  float max = -INFINITY;
  for (int64_t j = threadIdx.x; j < V; j += kBlockThreads) max = Max()(x[j], max);
  return RowReduce<kBlockThreads>(max, scratch, Max());
}

__device__ double RowExpSum(const float* x, int64_t V, float max, double* scratch) {
  float sum = 0;
  for (int64_t j = threadIdx.x; j < V; j += kBlockThreads) sum += expf(x[j] - max);
  return RowReduce<kBlockThreads>(static_cast<double>(sum), scratch, Sum());
}

// The first index of the largest element of a row; V where there is none (NaN).
__device__ int64_t RowFirst(const float* x, int64_t V, float max, int64_t* scratch) {
  int64_t first = V;
  for (int64_t j = threadIdx.x; j < V && first == V; j += kBlockThreads) {
    if (x[j] == max) first = j;
  }
  return RowReduce<kBlockThreads>(first, scratch,
                                  [](int64_t a, int64_t b) { return a < b ? a : b; });
}

// g = onehot(label) - softmax(x); the label is the first index at which the running sum of the
// probabilities exceeds u, found by chunk, then by the warp's prefix sums within it; where rounding
// leaves none, the last of positive probability in the chunk.
template <typename T>
__global__ void SampleLabelGradientKernel(const float* logits, uint64_t key, uint64_t first_counter,
                                          T* g, int64_t V) {
  __shared__ float max_scratch[kBlockThreads / kWarp];
  __shared__ float chunks[kChunks];
  __shared__ double total;
  __shared__ double before;  // the chunk that has the label
  __shared__ int64_t chunk, label;
  const int64_t row = blockIdx.x;
  const float* x = logits + row * V;
  const float max = RowMax(x, V, max_scratch);
  const int64_t size = ChunkSize(V), count = CeilDiv(V, size);
  const int lane = threadIdx.x % kWarp;
  for (int64_t c = threadIdx.x / kWarp; c < count; c += kBlockThreads / kWarp) {
    float sum = 0;
    for (int64_t j = c * size + lane; j < V && j < (c + 1) * size; j += kWarp) {
      sum += expf(x[j] - max);
    }
    sum = WarpReduce(sum, Sum());
    if (lane == 0) chunks[c] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = 0;
    for (int64_t c = 0; c < count; ++c) sum += chunks[c];
    const double target = RandomUniform(key, first_counter + row) * sum;
    total = sum;
    before = 0;
    chunk = 0;
    // The last chunk that is not empty stands in where rounding leaves none.
    double running = 0;
    for (int64_t c = 0; c < count; ++c) {
      if (chunks[c] > 0) {
        chunk = c;
        before = running;
      }
      running += chunks[c];
      if (running > target) break;
    }
    before = target - before;  // what is left to go within the chunk
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const float left = static_cast<float>(before);
    float running = 0;
    int64_t found = -1, last = chunk * size;
    for (int64_t j0 = chunk * size; j0 < (chunk + 1) * size && found < 0; j0 += kWarp) {
      const int64_t j = j0 + lane;
      const float term = j < V ? expf(x[j] - max) : 0;
      float prefix = term;
      for (int step = 1; step < kWarp; step *= 2) {
        const float lower = __shfl_up_sync(0xffffffffu, prefix, step);
        if (lane >= step) prefix += lower;
      }
      const unsigned over = __ballot_sync(0xffffffffu, term > 0 && running + prefix > left);
      const unsigned positive = __ballot_sync(0xffffffffu, term > 0);
      if (over != 0) found = j0 + __ffs(static_cast<int>(over)) - 1;
      if (positive != 0) last = j0 + 31 - __clz(static_cast<int>(positive));
      running += __shfl_sync(0xffffffffu, prefix, kWarp - 1);
    }
    if (lane == 0) label = found >= 0 ? found : last;
  }
  __syncthreads();
  const float inverse = static_cast<float>(1 / total);
  for (int64_t j = threadIdx.x; j < V; j += kBlockThreads) {
    g[row * V + j] = FromFloat<T>((j == label ? 1.0f : 0.0f) - expf(x[j] - max) * inverse);
  }
}

// A target outside V reads as NaN (as an id outside a table does).
__global__ void NegativeLogLikelihoodKernel(const float* logits, const int32_t* targets, float* nll,
                                            int64_t V) {
  __shared__ float max_scratch[kBlockThreads / kWarp];
  __shared__ double sum_scratch[kBlockThreads / kWarp];
  const int64_t row = blockIdx.x;
  const float* x = logits + row * V;
  const float max = RowMax(x, V, max_scratch);
  const double total = RowExpSum(x, V, max, sum_scratch);
  if (threadIdx.x != 0) return;
  const int64_t target = targets[row];
  nll[row] = target >= 0 && target < V
                 ? static_cast<float>(log(total) - (static_cast<double>(x[target]) - max))
                 : nanf("");
}

// With totals P = sum e^(p - max_p) and Q alike:
//   KL = sum e^(p - max_p) (p - q - (max_p - max_q)) / P - log P + log Q.
__global__ void KlDivergenceKernel(const float* reference, const float* logits, float* kl,
                                   float* agree, int64_t V) {
  __shared__ float max_scratch[kBlockThreads / kWarp];
  __shared__ double sum_scratch[kBlockThreads / kWarp];
  __shared__ int64_t first_scratch[kBlockThreads / kWarp];
  const int64_t row = blockIdx.x;
  const float *p = reference + row * V, *q = logits + row * V;
  const float max_p = RowMax(p, V, max_scratch), max_q = RowMax(q, V, max_scratch);
  const double total_p = RowExpSum(p, V, max_p, sum_scratch);
  const double total_q = RowExpSum(q, V, max_q, sum_scratch);
  float sum = 0;
  for (int64_t j = threadIdx.x; j < V; j += kBlockThreads) {
    // A masked logit (-Inf in the reference) adds nothing.
    if (p[j] != -INFINITY) sum += expf(p[j] - max_p) * (p[j] - q[j] - (max_p - max_q));
  }
  const double divergence = RowReduce<kBlockThreads>(static_cast<double>(sum), sum_scratch, Sum());
  const int64_t first_p = RowFirst(p, V, max_p, first_scratch),
                first_q = RowFirst(q, V, max_q, first_scratch);
  if (threadIdx.x != 0) return;
  kl[row] = static_cast<float>(divergence / total_p - log(total_p) + log(total_q));
  agree[row] = first_p == first_q ? 1 : 0;
}

__global__ void KlGradientKernel(const float* reference, const float* logits, float* g, int64_t V) {
  __shared__ float max_scratch[kBlockThreads / kWarp];
  __shared__ double sum_scratch[kBlockThreads / kWarp];
  const int64_t row = blockIdx.x;
  const float *p = reference + row * V, *q = logits + row * V;
  const float max_p = RowMax(p, V, max_scratch), max_q = RowMax(q, V, max_scratch);
  const float inverse_p = static_cast<float>(1 / RowExpSum(p, V, max_p, sum_scratch));
  const float inverse_q = static_cast<float>(1 / RowExpSum(q, V, max_q, sum_scratch));
  for (int64_t j = threadIdx.x; j < V; j += kBlockThreads) {
    g[row * V + j] = expf(q[j] - max_q) * inverse_q - expf(p[j] - max_p) * inverse_p;
  }
}

}  // namespace

void CudaBackend::SampleLabelGradient(const Tensor& logits, uint64_t key, uint64_t first_counter,
                                      Tensor g) {
  if (failed()) return;
  contract::SampleLabelGradient(logits, g);
  WithComputeType(g.dtype, [&](auto element) {
    using T = decltype(element);
    Launch(*device_, {.x = logits.shape[0]}, SampleLabelGradientKernel<T>, Data<float>(logits), key,
           first_counter, Data<T>(g), logits.shape[1]);
  });
}

void CudaBackend::NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, Tensor nll) {
  if (failed()) return;
  contract::NegativeLogLikelihood(logits, targets, nll);
  Launch(*device_, {.x = logits.shape[0]}, NegativeLogLikelihoodKernel, Data<float>(logits),
         Data<int32_t>(targets), Data<float>(nll), logits.shape[1]);
}

void CudaBackend::KlDivergence(const Tensor& reference, const Tensor& logits, Tensor kl,
                               Tensor agree) {
  if (failed()) return;
  contract::KlDivergence(reference, logits, kl, agree);
  Launch(*device_, {.x = logits.shape[0]}, KlDivergenceKernel, Data<float>(reference),
         Data<float>(logits), Data<float>(kl), Data<float>(agree), logits.shape[1]);
}

void CudaBackend::KlGradient(const Tensor& reference, const Tensor& logits, Tensor g) {
  if (failed()) return;
  contract::KlGradient(reference, logits, g);
  Launch(*device_, {.x = logits.shape[0]}, KlGradientKernel, Data<float>(reference),
         Data<float>(logits), Data<float>(g), logits.shape[1]);
}

}  // namespace cvxq::cuda
