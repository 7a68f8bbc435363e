// Embedding, positions, norms and rotations.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/contract.h"
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vectors.cuh"

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

// How a row of d floats is shared by kThreads threads, a warp or a block: each has vectors of
// kWidth, kThreads of them apart. kKept > 0: at most so many, and it keeps them in registers, so
// that a row is read once; 0: any number, read each time.
template <int kThreads_, int kWidth_, int kKept_>
struct RowShare {
  static constexpr int kThreads = kThreads_, kWidth = kWidth_, kKept = kKept_;

  // The rows of a block go on together from here.
  static __device__ int64_t row() {
    return blockIdx.x * int64_t{kBlockThreads / kThreads} + threadIdx.x / kThreads;
  }
  // body(v, j) for each of this thread's vectors: the v-th, at column j.
  template <typename Body>
  static __device__ void ForEach(int64_t d, const Body& body) {
    const int64_t first = threadIdx.x % kThreads * kWidth;
    if constexpr (kKept > 0) {
#pragma unroll
      for (int v = 0; v < kKept; ++v) {
        const int64_t j = first + v * kThreads * kWidth;
        if (j < d) body(v, j);
      }
    } else {
      for (int64_t j = first; j < d; j += kThreads * kWidth) body(0, j);
    }
  }
};

// A row of x, of zeros where x is null.
template <typename Share>
class Row {
 public:
  using Part = Vector<float, Share::kWidth>;

  __device__ Row(const float* x, int64_t d) : x_(x) {
    if constexpr (Share::kKept > 0)
      Share::ForEach(d, [&](int v, int64_t j) { kept_[v] = Read(j); });
  }
  // This thread's v-th vector, at column j.
  __device__ Part operator()(int v, int64_t j) const {
    if constexpr (Share::kKept > 0) return kept_[v];
    return Read(j);
  }

 private:
  __device__ Part Read(int64_t j) const {
    if (x_ == nullptr) return Part{};
    return Load<Share::kWidth>(x_ + j);
  }

  const float* const x_;
  Part kept_[Share::kKept > 0 ? Share::kKept : 1];
};

// mean (0 for the RMS kinds) and 1 / sqrt(mean square of (x - mean) + epsilon) of one row, by the
// threads that share it.
struct RowMoments {
  float mean = 0, inverse = 0;
};

template <typename Share>
__device__ RowMoments Moments(NormKind kind, float epsilon, const Row<Share>& x, int64_t d,
                              float* scratch) {
  RowMoments moments;
  if (kind == NormKind::kLayer) {
    float sum = 0;
    Share::ForEach(d, [&](int v, int64_t j) {
      const auto part = x(v, j);
#pragma unroll
      for (int k = 0; k < Share::kWidth; ++k) sum += part[k];
    });
    moments.mean = RowReduce<Share::kThreads>(sum, scratch, Sum()) / d;
  }
  float square = 0;
  Share::ForEach(d, [&](int v, int64_t j) {
    const auto part = x(v, j);
#pragma unroll
    for (int k = 0; k < Share::kWidth; ++k) {
      square += (part[k] - moments.mean) * (part[k] - moments.mean);
    }
  });
  moments.inverse = 1 / sqrtf(RowReduce<Share::kThreads>(square, scratch, Sum()) / d + epsilon);
  return moments;
}

// The factors of columns from j on: w, 1 + w, or 1.
template <int kWidth>
__device__ Vector<float, kWidth> Factors(NormKind kind, const float* w, int64_t j) {
  Vector<float, kWidth> factors = {};
  if (w != nullptr) factors = Load<kWidth>(w + j);
  if (w == nullptr || kind == NormKind::kRmsPlusOne) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) factors[k] += 1;
  }
  return factors;
}

// w and b have weight_rows and bias_rows rows of d, or are null.
template <typename Share, typename T>
__global__ void NormKernel(NormKind kind, float epsilon, const float* x,
                           const float* __restrict__ w, int64_t weight_rows,
                           const float* __restrict__ b, int64_t bias_rows, T* y, int64_t n,
                           int64_t d) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = Share::row();
  if (i >= n) return;  // all the threads of a row
  const Row<Share> row(x + i * d, d);
  const RowMoments m = Moments(kind, epsilon, row, d, scratch);
  const float* weight = w == nullptr ? nullptr : w + i % weight_rows * d;
  const float* bias = b == nullptr ? nullptr : b + i % bias_rows * d;
  Share::ForEach(d, [&](int v, int64_t j) {
    auto normal = row(v, j);
    const auto factor = Factors<Share::kWidth>(kind, weight, j);
    Vector<float, Share::kWidth> more = {};
    if (bias != nullptr) more = Load<Share::kWidth>(bias + j);
#pragma unroll
    for (int k = 0; k < Share::kWidth; ++k) {
      normal[k] = (normal[k] - m.mean) * m.inverse * factor[k] + more[k];
    }
    Store(y + i * d + j, normal);
  });
}

// With z = (x - mean) r and u = gy w: gx = r (u - [layer: mean(u)] - z mean(u z)).
template <typename Share>
__global__ void NormBackwardKernel(NormKind kind, float epsilon, const float* x,
                                   const float* __restrict__ w, int64_t weight_rows,
                                   const float* gy, float* gx, bool accumulate, int64_t n,
                                   int64_t d) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = Share::row();
  if (i >= n) return;
  const Row<Share> x_row(x + i * d, d), gy_row(gy + i * d, d);
  const RowMoments m = Moments(kind, epsilon, x_row, d, scratch);
  const float* weight = w == nullptr ? nullptr : w + i % weight_rows * d;
  float sum_u = 0, sum_uz = 0;
  Share::ForEach(d, [&](int v, int64_t j) {
    const auto value = x_row(v, j), g = gy_row(v, j);
    const auto factor = Factors<Share::kWidth>(kind, weight, j);
#pragma unroll
    for (int k = 0; k < Share::kWidth; ++k) {
      const float u = g[k] * factor[k];
      sum_u += u;
      sum_uz += u * (value[k] - m.mean) * m.inverse;
    }
  });
  const float mean_u =
      kind == NormKind::kLayer ? RowReduce<Share::kThreads>(sum_u, scratch, Sum()) / d : 0;
  const float mean_uz = RowReduce<Share::kThreads>(sum_uz, scratch, Sum()) / d;
  const Row<Share> before(accumulate ? gx + i * d : nullptr, d);
  Share::ForEach(d, [&](int v, int64_t j) {
    const auto value = x_row(v, j), g = gy_row(v, j);
    const auto factor = Factors<Share::kWidth>(kind, weight, j);
    auto out = before(v, j);
#pragma unroll
    for (int k = 0; k < Share::kWidth; ++k) {
      const float z = (value[k] - m.mean) * m.inverse;
      out[k] += m.inverse * (g[k] * factor[k] - mean_u - z * mean_uz);
    }
    Store(gx + i * d + j, out);
  });
}

// moments[n]: of each row.
template <typename Share>
__global__ void MomentsKernel(NormKind kind, float epsilon, const float* x, RowMoments* moments,
                              int64_t n, int64_t d) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = Share::row();
  if (i >= n) return;
  const RowMoments m = Moments(kind, epsilon, Row<Share>(x + i * d, d), d, scratch);
  if (threadIdx.x % Share::kThreads == 0) moments[i] = m;
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

// A block is one row of row_pairs pairs, a thread kWidth neighbouring pairs at a time (one if they
// are interleaved).
template <RopeKind kKind, int kWidth>
__global__ void RopeKernel(int head_dim, const float* cosine, const float* sine, int64_t position,
                           int64_t T, bool inverse, float* x, int row_pairs) {
  const int half = head_dim / 2;
  const int64_t row = blockIdx.x, at = (position + row % T) * half;
  float* const of_row = x + row * 2 * row_pairs;
  for (int pair = threadIdx.x * kWidth; pair < row_pairs; pair += blockDim.x * kWidth) {
    const int head = pair / half, j = pair % half;
    float* const first = of_row + head * head_dim + (kKind == RopeKind::kHalf ? j : 2 * j);
    float* const second = first + (kKind == RopeKind::kHalf ? half : 1);
    const auto c = Load<kWidth>(cosine + at + j), s = Load<kWidth>(sine + at + j);
    auto a = Load<kWidth>(first), b = Load<kWidth>(second);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float a_k = a[k], s_k = inverse ? -s[k] : s[k];
      a[k] = a_k * c[k] - b[k] * s_k;
      b[k] = b[k] * c[k] + a_k * s_k;
    }
    Store(first, a);
    Store(second, b);
  }
}

int64_t WeightRows(const Tensor& w) { return w.shape.rank() == 2 ? w.shape[0] : 1; }

// body(RowShare<>{}) for rows of d, whose vectors may be taken if `aligned`.
template <typename Body>
void WithRowShare(int64_t d, bool aligned, const Body& body) {
  const auto with_threads = [&](auto threads) {
    constexpr int kThreads = decltype(threads)::value;
    constexpr int kFew = 4, kMany = 8;  // vectors of a thread
    if (!aligned || d % kVector != 0 || d > kThreads * kVector * kMany) {
      body(RowShare<kThreads, 1, 0>());
    } else if (d > kThreads * kVector * kFew) {
      body(RowShare<kThreads, kVector, kMany>());
    } else {
      body(RowShare<kThreads, kVector, kFew>());
    }
  };
  if (RowThreads(d) == kWarp) return with_threads(std::integral_constant<int, kWarp>());
  with_threads(std::integral_constant<int, kBlockThreads>());
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
  WithComputeType(y.dtype, [&](auto element) {
    using T = decltype(element);
    const bool aligned = Aligned(Data<float>(x), Data<float>(w), Data<float>(b), Data<T>(y));
    WithRowShare(d, aligned, [&](auto share) {
      Launch(*device_, RowGrid(n, d), NormKernel<decltype(share), T>, kind, epsilon, Data<float>(x),
             Data<float>(w), WeightRows(w), Data<float>(b), WeightRows(b), Data<T>(y), n, d);
    });
  });
}

void CudaBackend::NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                               const Tensor& gy, Tensor gx, bool accumulate) {
  if (failed()) return;
  contract::NormBackward(x, w, gy, gx);
  const int64_t n = x.shape[0], d = x.shape[1];
  const bool aligned = Aligned(Data<float>(x), Data<float>(w), Data<float>(gy), Data<float>(gx));
  WithRowShare(d, aligned, [&](auto share) {
    Launch(*device_, RowGrid(n, d), NormBackwardKernel<decltype(share)>, kind, epsilon,
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
  WithRowShare(d, Aligned(Data<float>(x)), [&](auto share) {
    Launch(*device_, RowGrid(n, d), MomentsKernel<decltype(share)>, kind, epsilon, Data<float>(x),
           Data<RowMoments>(moments), n, d);
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
  const bool vectors = kind == RopeKind::kHalf && head_dim / 2 % kVector == 0 &&
                       Aligned(Data<float>(cosine), Data<float>(sine), Data<float>(x));
  const int64_t row_pairs = x.shape[1] / 2;
  const int64_t threads = CeilDiv(row_pairs, kWarp * (vectors ? kVector : 1)) * kWarp;
  const Grid grid{.x = x.shape[0],
                  .threads = static_cast<int>(std::clamp<int64_t>(threads, kWarp, kBlockThreads))};
  Launch(*device_, grid,
         vectors                   ? RopeKernel<RopeKind::kHalf, kVector>
         : kind == RopeKind::kHalf ? RopeKernel<RopeKind::kHalf, 1>
                                   : RopeKernel<RopeKind::kInterleaved, 1>,
         head_dim, Data<float>(cosine), Data<float>(sine), position, T, inverse, Data<float>(x),
         row_pairs);
}

}  // namespace cvxq::cuda
