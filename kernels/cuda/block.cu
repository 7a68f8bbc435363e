// Embedding, positions, norms and rotations.
#include <cmath>

#include "kernels/contract.h"
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// An id outside the table reads as NaN: the device cannot stop the program, and a model's answers
// must not be quietly wrong.
template <typename T>
__global__ void EmbedKernel(const T* table, const int32_t* ids, float scale, float* y, int64_t n,
                            int64_t V, int64_t D) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n * D;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t id = ids[i / D];
    y[i] = id >= 0 && id < V ? scale * ToFloat(table[id * D + i % D]) : nanf("");
  }
}

template <typename T>
__global__ void AddPositionsKernel(const T* table, int64_t position, int64_t T_, float* y,
                                   int64_t n, int64_t D) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n * D;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] += ToFloat(table[(position + i / D % T_) * D + i % D]);
  }
}

// mean (0 for the RMS kinds) and 1 / sqrt(mean square of (x - mean) + epsilon) of one row, by the
// threads that share it.
struct RowMoments {
  float mean = 0, inverse = 0;
};

template <int kThreads>
__device__ RowMoments Moments(NormKind kind, float epsilon, const float* x, int64_t d,
                              float* scratch) {
  const int lane = threadIdx.x % kThreads;
  RowMoments moments;
  if (kind == NormKind::kLayer) {
    float sum = 0;
    for (int64_t j = lane; j < d; j += kThreads) sum += x[j];
    moments.mean = RowReduce<kThreads>(sum, scratch, Sum()) / d;
  }
  float square = 0;
  for (int64_t j = lane; j < d; j += kThreads) {
    square += (x[j] - moments.mean) * (x[j] - moments.mean);
  }
  moments.inverse = 1 / sqrtf(RowReduce<kThreads>(square, scratch, Sum()) / d + epsilon);
  return moments;
}

// The factor of column j: w, 1 + w, or 1.
__device__ float Factor(NormKind kind, const float* w, int64_t j) {
  if (w == nullptr) return 1;
  return kind == NormKind::kRmsPlusOne ? 1 + w[j] : w[j];
}

// The rows of a block that has kThreads threads for each: the first is given, they go on together.
template <int kThreads>
__device__ int64_t RowOfThread() {
  return blockIdx.x * int64_t{kBlockThreads / kThreads} + threadIdx.x / kThreads;
}

// w and b have weight_rows and bias_rows rows of d, or are null.
template <int kThreads, typename T>
__global__ void NormKernel(NormKind kind, float epsilon, const float* x, const float* w,
                           int64_t weight_rows, const float* b, int64_t bias_rows, T* y, int64_t n,
                           int64_t d) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = RowOfThread<kThreads>();
  if (i >= n) return;  // all the threads of a row
  const RowMoments m = Moments<kThreads>(kind, epsilon, x + i * d, d, scratch);
  const float* weight = w == nullptr ? nullptr : w + i % weight_rows * d;
  const float* bias = b == nullptr ? nullptr : b + i % bias_rows * d;
  for (int64_t j = threadIdx.x % kThreads; j < d; j += kThreads) {
    const float normal = (x[i * d + j] - m.mean) * m.inverse;
    y[i * d + j] = FromFloat<T>(normal * Factor(kind, weight, j) + (bias == nullptr ? 0 : bias[j]));
  }
}

// With z = (x - mean) r and u = gy w: gx = r (u - [layer: mean(u)] - z mean(u z)).
template <int kThreads>
__global__ void NormBackwardKernel(NormKind kind, float epsilon, const float* x, const float* w,
                                   int64_t weight_rows, const float* gy, float* gx, bool accumulate,
                                   int64_t n, int64_t d) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = RowOfThread<kThreads>();
  if (i >= n) return;
  const RowMoments m = Moments<kThreads>(kind, epsilon, x + i * d, d, scratch);
  const float* weight = w == nullptr ? nullptr : w + i % weight_rows * d;
  float sum_u = 0, sum_uz = 0;
  for (int64_t j = threadIdx.x % kThreads; j < d; j += kThreads) {
    const float u = gy[i * d + j] * Factor(kind, weight, j);
    sum_u += u;
    sum_uz += u * (x[i * d + j] - m.mean) * m.inverse;
  }
  const float mean_u =
      kind == NormKind::kLayer ? RowReduce<kThreads>(sum_u, scratch, Sum()) / d : 0;
  const float mean_uz = RowReduce<kThreads>(sum_uz, scratch, Sum()) / d;
  for (int64_t j = threadIdx.x % kThreads; j < d; j += kThreads) {
    const float u = gy[i * d + j] * Factor(kind, weight, j);
    const float z = (x[i * d + j] - m.mean) * m.inverse;
    const float g = m.inverse * (u - mean_u - z * mean_uz);
    gx[i * d + j] = accumulate ? gx[i * d + j] + g : g;
  }
}

// moments[n]: of each row.
template <int kThreads>
__global__ void MomentsKernel(NormKind kind, float epsilon, const float* x, RowMoments* moments,
                              int64_t n, int64_t d) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = RowOfThread<kThreads>();
  if (i >= n) return;
  const RowMoments m = Moments<kThreads>(kind, epsilon, x + i * d, d, scratch);
  if (threadIdx.x % kThreads == 0) moments[i] = m;
}

// The terms of the gradient of a norm's weight, as a matrix [n / h, h * d].
struct NormGradientTerms {
  const float *x, *gy;
  const RowMoments* moments;
  int64_t d, columns;

  __device__ float operator()(int64_t i, int64_t j) const {
    const RowMoments m = moments[i * (columns / d) + j / d];
    return gy[i * columns + j] * (x[i * columns + j] - m.mean) * m.inverse;
  }
};

template <RopeKind kKind>
__global__ void RopeKernel(int64_t head_dim, const float* cosine, const float* sine,
                           int64_t position, int64_t T, bool inverse, float* x, int64_t pairs,
                           int64_t row_pairs) {
  const int64_t half = head_dim / 2;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < pairs;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = i / row_pairs, j = i % half, head = i / half * head_dim;
    const int64_t at = (position + row % T) * half + j;
    const float c = cosine[at], s = inverse ? -sine[at] : sine[at];
    const int64_t first = head + (kKind == RopeKind::kHalf ? j : 2 * j);
    const int64_t second = head + (kKind == RopeKind::kHalf ? j + half : 2 * j + 1);
    const float a = x[first], b = x[second];
    x[first] = a * c - b * s;
    x[second] = b * c + a * s;
  }
}

int64_t WeightRows(const Tensor& w) { return w.shape.rank() == 2 ? w.shape[0] : 1; }

// body(std::integral_constant<int, threads that share a row of d>).
template <typename Body>
void WithRowThreads(int64_t d, const Body& body) {
  if (RowThreads(d) == kWarp) return body(std::integral_constant<int, kWarp>());
  body(std::integral_constant<int, kBlockThreads>());
}

}  // namespace

void CudaBackend::Embed(const Tensor& table, const Tensor& ids, float scale, Tensor y) {
  if (failed()) return;
  contract::Embed(table, ids, y);
  const int64_t n = ids.shape.elements(), V = table.shape[0], D = table.shape[1];
  WithFloatType(table.dtype, [&](auto element) {
    using T = decltype(element);
    Launch(*device_, ElementGrid(n * D), EmbedKernel<T>, Data<T>(table), Data<int32_t>(ids), scale,
           Data<float>(y), n, V, D);
  });
}

void CudaBackend::AddPositions(const Tensor& table, int64_t position, int64_t T, Tensor y) {
  if (failed()) return;
  contract::AddPositions(table, position, T, y);
  const int64_t n = y.shape[0], D = y.shape[1];
  WithFloatType(table.dtype, [&](auto element) {
    using Element = decltype(element);
    Launch(*device_, ElementGrid(n * D), AddPositionsKernel<Element>, Data<Element>(table),
           position, T, Data<float>(y), n, D);
  });
}

void CudaBackend::Norm(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                       const Tensor& b, Tensor y) {
  if (failed()) return;
  contract::Norm(x, w, b, y);
  const int64_t n = x.shape[0], d = x.shape[1];
  WithRowThreads(d, [&](auto threads) {
    WithComputeType(y.dtype, [&](auto element) {
      using T = decltype(element);
      Launch(*device_, RowGrid(n, d), NormKernel<decltype(threads)::value, T>, kind, epsilon,
             Data<float>(x), Data<float>(w), WeightRows(w), Data<float>(b), WeightRows(b),
             Data<T>(y), n, d);
    });
  });
}

void CudaBackend::NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                               const Tensor& gy, Tensor gx, bool accumulate) {
  if (failed()) return;
  contract::NormBackward(x, w, gy, gx);
  const int64_t n = x.shape[0], d = x.shape[1];
  WithRowThreads(d, [&](auto threads) {
    Launch(*device_, RowGrid(n, d), NormBackwardKernel<decltype(threads)::value>, kind, epsilon,
           Data<float>(x), Data<float>(w), WeightRows(w), Data<float>(gy), Data<float>(gx),
           accumulate, n, d);
  });
}

void CudaBackend::AddNormGradient(NormKind kind, float epsilon, const Tensor& x, const Tensor& gy,
                                  Tensor gw) {
  if (failed()) return;
  contract::AddNormGradient(x, gy, gw);
  const int64_t n = x.shape[0], d = x.shape[1], h = WeightRows(gw);
  Require(n % h == 0, "AddNormGradient: rows are not whole sets of heads");
  const Tensor moments = device_->Scratch(DType::kF32, {n, 2});
  WithRowThreads(d, [&](auto threads) {
    Launch(*device_, RowGrid(n, d), MomentsKernel<decltype(threads)::value>, kind, epsilon,
           Data<float>(x), Data<RowMoments>(moments), n, d);
  });
  SumColumns(
      *device_,
      NormGradientTerms{Data<float>(x), Data<float>(gy), Data<RowMoments>(moments), d, h * d},
      n / h, h * d, Data<float>(gw));
}

void CudaBackend::Rope(RopeKind kind, int64_t head_dim, const Tensor& cosine, const Tensor& sine,
                       int64_t position, int64_t T, bool inverse, Tensor x) {
  if (failed() || kind == RopeKind::kNone) return;
  contract::Rope(head_dim, cosine, sine, position, T, x);
  const int64_t pairs = x.shape.elements() / 2;
  Launch(*device_, ElementGrid(pairs),
         kind == RopeKind::kHalf ? RopeKernel<RopeKind::kHalf> : RopeKernel<RopeKind::kInterleaved>,
         head_dim, Data<float>(cosine), Data<float>(sine), position, T, inverse, Data<float>(x),
         pairs, x.shape[1] / 2);
}

}  // namespace cvxq::cuda
