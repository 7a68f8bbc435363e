// Sums over tokens: second moments, means, squared gradients.
#include <algorithm>

#include "kernels/contract.h"
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vectors.cuh"

namespace cvxq::cuda {
namespace {

constexpr int kTile = 32;                 // of a transposition, by 32 x 8 threads
constexpr int64_t kMomentColumns = 1024;  // of a strip of a second moment

// h[j, k] = h[k, j] for j > k, by tiles on and below the diagonal.
__global__ void MirrorKernel(float* h, int64_t N) {
  __shared__ float tile[kTile][kTile + 1];
  if (blockIdx.x > blockIdx.y) return;
  const int column = threadIdx.x % kTile, first = threadIdx.x / kTile;
  const int64_t j0 = int64_t{blockIdx.y} * kTile, k0 = int64_t{blockIdx.x} * kTile;
  for (int row = first; row < kTile; row += kBlockThreads / kTile) {
    if (k0 + row < N && j0 + column < N) tile[row][column] = h[(k0 + row) * N + j0 + column];
  }
  __syncthreads();
  for (int row = first; row < kTile; row += kBlockThreads / kTile) {
    const int64_t j = j0 + row, k = k0 + column;
    if (j < N && k < j) h[j * N + k] = tile[column][row];
  }
}

template <typename T>
struct Elements {
  const T* x;
  int64_t columns;
  __device__ float operator()(int64_t i, int64_t j) const { return ToFloat(x[i * columns + j]); }
};

struct Squares {
  const float* g;
  int64_t columns;
  __device__ float operator()(int64_t i, int64_t j) const {
    const float value = g[i * columns + j];
    return value * value;
  }
};

// sums[i * stride] += f(x[i, 0..N)), summed by the threads that share a row.
template <int kThreads, bool kSquare, typename T>
__global__ void RowSumsKernel(const T* x, float* sums, int64_t n, int64_t N) {
  __shared__ float scratch[kBlockThreads / kWarp];
  const int64_t i = blockIdx.x * int64_t{kBlockThreads / kThreads} + threadIdx.x / kThreads;
  if (i >= n) return;
  float sum = 0;
  for (int64_t j = threadIdx.x % kThreads; j < N; j += kThreads) {
    const float value = ToFloat(x[i * N + j]);
    sum += kSquare ? value * value : value;
  }
  sum = RowReduce<kThreads>(sum, scratch, Sum());
  if (threadIdx.x % kThreads == 0) sums[i] += sum;
}

template <bool kSquare, typename T>
void AddRowSums(Device& device, const T* x, float* sums, int64_t n, int64_t N) {
  Launch(device, RowGrid(n, N),
         RowThreads(N) == kWarp ? RowSumsKernel<kWarp, kSquare, T>
                                : RowSumsKernel<kBlockThreads, kSquare, T>,
         x, sums, n, N);
}

// The members [0, count) by strips of `strip`, a strip's by groups, a group's in ascending order:
//   order[count]: their places within the strip, those of strip s from s * strip on
//   begin[strips, groups + 1]: where in its strip's part of `order` each group begins; and the end.
// A block is one group and one strip, and a warp of it a run of the members. It counts those of
// lower groups and of its own, and so knows where to put them.
__global__ void GroupMembersKernel(const int32_t* group, int64_t count, int64_t strip,
                                   int32_t* order, int32_t* begin) {
  constexpr int kWarps = kBlockThreads / kWarp;
  __shared__ int32_t lower_of[kWarps], own_of[kWarps];
  const int32_t a = static_cast<int32_t>(blockIdx.x), groups = static_cast<int32_t>(gridDim.x);
  const int64_t first = blockIdx.y * strip;
  group += first;
  const int size = static_cast<int>(count - first < strip ? count - first : strip);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int run = (size + kBlockThreads - 1) / kBlockThreads * kWarp;
  const int run_begin = warp * run < size ? warp * run : size;
  const int run_end = run_begin + run < size ? run_begin + run : size;

  int32_t lower = 0, own = 0;
  for (int i = run_begin + lane; i < run_end; i += kWarp) {
    lower += group[i] < a ? 1 : 0;
    own += group[i] == a ? 1 : 0;
  }
  lower = WarpReduce(lower, Sum());
  own = WarpReduce(own, Sum());
  if (lane == 0) {
    lower_of[warp] = lower;
    own_of[warp] = own;
  }
  __syncthreads();
  int32_t group_begin = 0, group_end = 0, place = 0;
  for (int w = 0; w < kWarps; ++w) {
    group_begin += lower_of[w];
    group_end += lower_of[w] + own_of[w];
    place += lower_of[w] + (w < warp ? own_of[w] : 0);
  }
  if (threadIdx.x == 0) {
    int32_t* const begins = begin + blockIdx.y * (int64_t{groups} + 1);
    begins[a] = group_begin;
    if (a == groups - 1) begins[groups] = group_end;
  }
  for (int i = run_begin; i < run_end; i += kWarp) {
    const bool is_own = i + lane < run_end && group[i + lane] == a;
    const uint32_t own_lanes = __ballot_sync(0xffffffffu, is_own);
    if (is_own) order[first + place + __popc(own_lanes & ((1u << lane) - 1))] = i + lane;
    place += __popc(own_lanes);
  }
}

// Where the sums of group a and line k lie.
struct SumsAt {
  float* sums;
  int64_t group_stride, line_stride;
};

// Adds to each group's sums over its members of a strip, which are the rows order[begin[a]..] of
// g[rows, lines]. One group and kWarp * kWidth lines are a task; its `share` warps of a block take
// the rows in turn, each row along the lines, so that it does not matter where in the strip the
// rows lie, and its first warp adds what they have. Four rows of a warp are under way at a time:
// with the 32 registers that the compiler would choose they wait for each other.
template <int kWidth>
__global__ void __maxnreg__(48)
    GroupSquaresKernel(const float* g, const int32_t* order, const int32_t* begin, int groups,
                       int64_t lines, int line_tasks, int share, SumsAt out) {
  constexpr int kWarps = kBlockThreads / kWarp, kLines = kWarp * kWidth, kRows = 4;
  __shared__ Vector<float, kWidth> parts[kWarps][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int task = blockIdx.x * (kWarps / share) + warp / share;
  const int a = task / line_tasks;
  const int64_t first = int64_t{task % line_tasks} * kLines;  // line
  const int end = a < groups ? begin[a + 1] : 0;
  Vector<float, kWidth> sum = {};
  if (first + lane * kWidth < lines) {
    for (int i = a < groups ? begin[a] + warp % share : 0; i < end; i += kRows * share) {
      int row[kRows];
      Vector<float, kWidth> value[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {  // beyond the end the last row again, to no effect
        row[r] = order[i + r * share < end ? i + r * share : end - 1];
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        value[r] = Load<kWidth>(g + row[r] * lines + first + lane * kWidth);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          if (i + r * share < end) sum[k] += value[r][k] * value[r][k];
        }
      }
    }
  }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp % share != 0 || a >= groups) return;
  // Now a lane has lines that are kWarp apart, so that a warp's lie side by side in `sums`.
  float* const sums = out.sums + a * out.group_stride + first * out.line_stride;
  const int count = lines - first < kLines ? static_cast<int>(lines - first) : kLines;
  float before[kWidth], total[kWidth] = {};
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const int own = k * kWarp + lane;
    before[k] = own < count ? sums[own * out.line_stride] : 0;
  }
#pragma unroll 1
  for (int w = warp; w < warp + share; ++w) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const int own = k * kWarp + lane;
      total[k] += parts[w][own / kWidth][own % kWidth];
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const int own = k * kWarp + lane;
    if (own < count) sums[own * out.line_stride] = before[k] + total[k];
  }
}

void AddGroupSquares(Device& device, const float* g, const int32_t* order, const int32_t* begin,
                     int64_t rows, int64_t groups, int64_t lines, const SumsAt& out) {
  const bool vectors = lines % kVector == 0 && Aligned(g);
  const int64_t line_tasks = CeilDiv(lines, kWarp * (vectors ? kVector : 1));
  const int share = GroupWarps(rows, groups);
  Launch(device, {.x = CeilDiv(groups * line_tasks * share, kBlockThreads / kWarp)},
         vectors ? GroupSquaresKernel<kVector> : GroupSquaresKernel<1>, g, order, begin, groups,
         lines, line_tasks, share, out);
}

// sums += g g.
struct AddSquares {
  const float* g;
  float* sums;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    const auto value = Load<kWidth>(g + i);
    auto sum = Load<kWidth>(sums + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] += value[k] * value[k];
    Store(sums + i, sum);
  }
};

}  // namespace

// The strips on and above the diagonal, mirrored afterwards: little more than half of the products.
void CudaBackend::AddSecondMoment(const Tensor& x, Tensor h) {
  if (failed()) return;
  contract::AddSecondMoment(x, h);
  const int64_t n = x.shape[0], N = x.shape[1];
  for (int64_t begin = 0; begin < N; begin += kMomentColumns) {
    const int64_t end = std::min(N, begin + kMomentColumns);
    products_->Multiply({.m = end,
                         .n = end - begin,
                         .k = n,
                         .a = DeviceBytes(x),
                         .transpose_a = true,
                         .a_stride = N,
                         .b = DeviceBytes(x) + begin * ByteSize(x.dtype),
                         .b_stride = N,
                         .c = Data<float>(h) + begin,
                         .c_stride = N,
                         .dtype = x.dtype,
                         .accumulate = true});
  }
  const int64_t tiles = CeilDiv(N, kTile);
  Launch(*device_, {.x = tiles, .y = tiles}, MirrorKernel, Data<float>(h), N);
}

void CudaBackend::AddBlockSecondMoment(const Tensor& x, Tensor h) {
  if (failed()) return;
  contract::AddBlockSecondMoment(x, h);
  const int64_t n = x.shape[0], N = x.shape[1], b = h.shape[2], whole = N / b, rest = N % b;
  Product product{.m = b,
                  .n = b,
                  .k = n,
                  .a = DeviceBytes(x),
                  .transpose_a = true,
                  .a_stride = N,
                  .b = DeviceBytes(x),
                  .b_stride = N,
                  .c = Data<float>(h),
                  .c_stride = b,
                  .dtype = x.dtype,
                  .accumulate = true,
                  .batch = whole,
                  .a_distance = b,
                  .b_distance = b,
                  .c_distance = b * b};
  products_->Multiply(product);
  if (rest == 0) return;
  product.m = product.n = rest;
  product.a = product.b = DeviceBytes(x) + whole * b * ByteSize(x.dtype);
  product.c = Data<float>(h) + whole * b * b;
  product.batch = 1;
  products_->Multiply(product);
}

void CudaBackend::AddColumnSums(const Tensor& x, Tensor sums) {
  if (failed()) return;
  contract::AddColumnSums(x, sums);
  WithComputeType(x.dtype, [&](auto element) {
    using T = decltype(element);
    SumColumns(*device_, Elements<T>{Data<T>(x), x.shape[1]}, x.shape[0], x.shape[1],
               Data<float>(sums));
  });
}

void CudaBackend::AddRowSquares(const Tensor& x, Tensor sums) {
  if (failed()) return;
  contract::AddRowSquares(x, sums);
  WithComputeType(x.dtype, [&](auto element) {
    using T = decltype(element);
    AddRowSums<true>(*device_, Data<T>(x), Data<float>(sums), x.shape[0], x.shape[1]);
  });
}

// The axis that has groups is "members", the other one "lines" (if both have, that with more). The
// gradient is made in strips of members, which stay in the cache until their squares are summed.
void CudaBackend::AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                                     const Tensor& column_group, Tensor sums) {
  if (failed()) return;
  contract::AddSquaredGradient(gy, x, row_group, column_group, sums);
  const int64_t T = gy.shape[0], A = sums.shape[0], B = sums.shape[1];
  const bool by_columns = !column_group.empty() && (row_group.empty() || B > A);
  const Tensor& group = by_columns ? column_group : row_group;
  const int64_t groups = by_columns ? B : A;
  const bool lines_too = !row_group.empty() && !column_group.empty();
  const Tensor &members = by_columns ? x : gy, &lines = by_columns ? gy : x;
  const int64_t member_count = members.shape[1], line_count = lines.shape[1];
  const int64_t strip = StripRows(member_count, line_count);

  Tensor order, begin;  // of GroupMembersKernel
  if (!group.empty() && groups > 1) {
    const int64_t strips = CeilDiv(member_count, strip);
    order = device_->Scratch(DType::kI32, {member_count});
    begin = device_->Scratch(DType::kI32, {strips, groups + 1});
    Launch(*device_, {.x = groups, .y = strips}, GroupMembersKernel, Data<int32_t>(group),
           member_count, strip, Data<int32_t>(order), Data<int32_t>(begin));
  }

  SumsAt out{Data<float>(sums), by_columns ? 1 : line_count, by_columns ? groups : 1};
  Tensor by_line;  // [groups, lines], where the lines are one group too
  if (lines_too) {
    by_line = device_->Scratch(DType::kF32, {groups, line_count});
    device_->Clear(DeviceBytes(by_line), by_line.bytes());
    out = {Data<float>(by_line), line_count, 1};
  }
  const Tensor g = device_->Scratch(DType::kF32, {strip, line_count});
  for (int64_t first = 0; first < member_count; first += strip) {
    const int64_t rows = std::min(strip, member_count - first);
    products_->Multiply({.m = rows,
                         .n = line_count,
                         .k = T,
                         .a = DeviceBytes(members) + first * ByteSize(members.dtype),
                         .transpose_a = true,
                         .a_stride = member_count,
                         .b = DeviceBytes(lines),
                         .b_stride = line_count,
                         .c = Data<float>(g),
                         .c_stride = line_count,
                         .dtype = members.dtype});
    if (group.empty()) {
      const AddSquares squares{Data<float>(g), Data<float>(sums) + first * line_count};
      ForEach(*device_, rows * line_count, squares, Aligned(squares.g, squares.sums));
    } else if (groups == 1) {
      SumColumns(*device_, Squares{Data<float>(g), line_count}, rows, line_count, out.sums);
    } else {
      AddGroupSquares(*device_, Data<float>(g), Data<int32_t>(order) + first,
                      Data<int32_t>(begin) + first / strip * (groups + 1), rows, groups, line_count,
                      out);
    }
  }
  if (lines_too) {
    AddRowSums<false>(*device_, Data<float>(by_line), Data<float>(sums), groups, line_count);
  }
}

}  // namespace cvxq::cuda
