// Attention of few queries to many keys, as in generation. A block has one head of k and v, kSplit
// keys, and up to eight rows: the queries of all the query heads that share it. Then the parts of
// all splits are merged, in order.
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_output.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

constexpr int kSplit = 128;
constexpr int kWarps = kBlockThreads / kWarp;
constexpr int kKeyLanes = 8;  // threads that share one dot product
constexpr int kDims = 128, kEachDim = kDims / kWarp;

// The first key that any query sees; splits are counted from there.
__host__ __device__ int FirstKey(const AttentionShape& shape) {
  return KeysSeen(shape.Tk - shape.Tq, shape.Tk - 1, shape.window).begin;
}

// parts[n, heads, splits, head_dim]: sums of exp(score - max) v; sums[n, heads, splits]: {max, sum
// of exp(score - max)}.
template <int kRows>
__global__ void __launch_bounds__(kBlockThreads)
    DecodeKernel(AttentionShape shape, int splits, const float* q, const float* k, const float* v,
                 float* parts, float2* sums) {
  static_assert(kRows <= kWarps);
  __shared__ float p[kRows][kSplit], merged[kWarps][kRows][kDims];
  auto* qs = reinterpret_cast<float*>(DynamicShared());  // [kRows, head_dim]
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, D = shape.head_dim;
  const int split = blockIdx.x % splits, b = blockIdx.x / splits / shape.kv_heads();
  const int kv_head = blockIdx.x / splits % shape.kv_heads();
  const int first_key = FirstKey(shape) + split * kSplit;
  const int keys = shape.Tk - first_key < kSplit ? shape.Tk - first_key : kSplit;
  const int64_t kv = (int64_t{b} * shape.Tk + first_key) * shape.kv_width() + int64_t{kv_head} * D;
  const int first_row = blockIdx.y * kRows;
  const int left = shape.Tq * shape.group - first_row, rows = left < kRows ? left : kRows;
  // Row r is query first_row + r of the group's queries, token by token.
  const auto token = [&](int r) { return (first_row + r) / shape.group; };
  const auto head_row = [&](int r) {  // of [n, heads]
    return (int64_t{b} * shape.Tq + token(r)) * shape.heads + kv_head * shape.group +
           (first_row + r) % shape.group;
  };

  for (int i = threadIdx.x; i < kRows * D; i += kBlockThreads) {
    qs[i] = i / D < rows ? q[head_row(i / D) * D + i % D] : 0;
  }
  __syncthreads();
  for (int key = threadIdx.x / kKeyLanes; key < kSplit; key += kBlockThreads / kKeyLanes) {
    const float* row = k + kv + (key < keys ? key : 0) * shape.kv_width();
    float score[kRows] = {};
#pragma unroll 8
    for (int d = threadIdx.x % kKeyLanes; d < D; d += kKeyLanes) {
      const float x = row[d];
#pragma unroll
      for (int r = 0; r < kRows; ++r) score[r] = Fma(x, qs[r * D + d], score[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int lanes = kKeyLanes / 2; lanes > 0; lanes /= 2) {
        score[r] += __shfl_xor_sync(0xffffffffu, score[r], lanes);
      }
      const int position = shape.Tk - shape.Tq + token(r);
      float scaled = score[r] * shape.scale;
      if (shape.softcap > 0) scaled = shape.softcap * tanhf(scaled / shape.softcap);
      if (threadIdx.x % kKeyLanes == 0) {
        p[r][key] = key < keys && shape.Sees(position, first_key + key) ? scaled : -INFINITY;
      }
    }
  }
  __syncthreads();
  if (warp < rows) {
    float max = -INFINITY, sum = 0;
    for (int i = lane; i < kSplit; i += kWarp) max = Max()(p[warp][i], max);
    max = WarpReduce(max, Max());
    const float base = max == -INFINITY ? 0 : max;
    for (int i = lane; i < kSplit; i += kWarp) sum += p[warp][i] = expf(p[warp][i] - base);
    sum = WarpReduce(sum, Sum());
    if (lane == 0) sums[head_row(warp) * splits + split] = make_float2(max, sum);
  }
  for (int d0 = 0; d0 < D; d0 += kDims) {
    __syncthreads();
    float out[kRows][kEachDim] = {};
#pragma unroll 4
    for (int key = warp; key < keys; key += kWarps) {
      float x[kEachDim];
#pragma unroll
      for (int j = 0; j < kEachDim; ++j) {
        const int d = d0 + lane + kWarp * j;
        x[j] = d < D ? v[kv + key * shape.kv_width() + d] : 0;
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < kEachDim; ++j) out[r][j] = Fma(p[r][key], x[j], out[r][j]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < kEachDim; ++j) merged[warp][r][lane + kWarp * j] = out[r][j];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * kDims; i += kBlockThreads) {
      const int r = i / kDims, d = i % kDims;
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += merged[w][r][d];
      if (d0 + d < D) parts[(head_row(r) * splits + split) * D + d0 + d] = sum;
    }
  }
}

// y[n, heads, head_dim]: a block has one row and kWarp columns; its warps take the splits in turn.
__global__ void __launch_bounds__(kBlockThreads)
    MergeSplitsKernel(int splits, int D, const float* parts, const float2* sums,
                      AttentionOutput y) {
  __shared__ float scratch[kWarps], merged[kWarps][kWarp];
  const int64_t row = blockIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int d = blockIdx.y * kWarp + lane;
  float max = -INFINITY, total = 0, sum = 0;
  for (int s = threadIdx.x; s < splits; s += kBlockThreads) {
    max = Max()(sums[row * splits + s].x, max);
  }
  max = RowReduce<kBlockThreads>(max, scratch, Max());
  for (int s = threadIdx.x; s < splits; s += kBlockThreads) {
    const float2 of_split = sums[row * splits + s];
    total += of_split.y * expf(of_split.x - max);
  }
  total = RowReduce<kBlockThreads>(total, scratch, Sum());
#pragma unroll 4
  for (int s = warp; s < splits; s += kWarps) {
    const float part = d < D ? parts[(row * splits + s) * D + d] : 0;
    sum = Fma(part, expf(sums[row * splits + s].x - max), sum);
  }
  merged[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || d >= D) return;
  for (int w = 1; w < kWarps; ++w) sum += merged[w][lane];
  y.Put(row * D + d, sum / total);
}

}  // namespace

void AttentionDecode(Device& device, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                     const Tensor& v, const Tensor& y) {
  if (shape.Tq == 0) return;
  const int64_t splits = CeilDiv(shape.Tk - FirstKey(shape), kSplit);
  const int64_t rows = int64_t{shape.B} * shape.Tq * shape.heads, D = shape.head_dim;
  const int64_t of_group = int64_t{shape.Tq} * shape.group;
  const Tensor parts = device.Scratch(DType::kF32, {rows, splits, D});
  const Tensor sums = device.Scratch(DType::kF32, {rows, splits, 2});
  const auto launch = [&](auto kernel, int each) {
    Launch(device,
           {.x = int64_t{shape.B} * shape.kv_heads() * splits,
            .y = CeilDiv(of_group, each),
            .shared_bytes = each * D * static_cast<int64_t>(sizeof(float))},
           kernel, shape, static_cast<int>(splits), Data<float>(q), Data<float>(k), Data<float>(v),
           Data<float>(parts), Data<float2>(sums));
  };
  if (of_group == 1) {
    launch(DecodeKernel<1>, 1);
  } else if (of_group == 2) {
    launch(DecodeKernel<2>, 2);
  } else if (of_group <= 4) {
    launch(DecodeKernel<4>, 4);
  } else {
    launch(DecodeKernel<8>, 8);
  }
  Launch(device, {.x = rows, .y = CeilDiv(D, kWarp)}, MergeSplitsKernel, static_cast<int>(splits),
         static_cast<int>(D), Data<float>(parts), Data<float2>(sums), AttentionOutput::Of(y));
}

}  // namespace cvxq::cuda
