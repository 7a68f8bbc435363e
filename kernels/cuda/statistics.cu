// Sums over tokens: second moments, means, squared gradients.
#include <algorithm>

#include "kernels/contract.h"
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

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

// The members of groups in the order of groups, then of indices: rank by counting, since members
// are few (an axis of one matrix). order[rank] = member, sorted[rank] = its group.
__global__ void OrderKernel(const int32_t* group, int64_t count, int32_t* order, int32_t* sorted) {
  __shared__ int32_t others[kBlockThreads];
  const int64_t i = blockIdx.x * int64_t{kBlockThreads} + threadIdx.x;
  const int32_t own = i < count ? group[i] : 0;
  int64_t rank = 0;
  for (int64_t begin = 0; begin < count; begin += kBlockThreads) {
    const int64_t size = count - begin < kBlockThreads ? count - begin : kBlockThreads;
    if (threadIdx.x < size) others[threadIdx.x] = group[begin + threadIdx.x];
    __syncthreads();
    for (int64_t j = 0; j < size; ++j) {
      rank += others[j] < own || (others[j] == own && begin + j < i) ? 1 : 0;
    }
    __syncthreads();
  }
  if (i >= count) return;
  order[rank] = static_cast<int32_t>(i);
  sorted[rank] = own;
}

// begin[a] for a in [0, groups]: the first rank whose group is at least a.
__global__ void GroupBeginsKernel(const int32_t* sorted, int64_t count, int64_t groups,
                                  int32_t* begin) {
  const int64_t a = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (a > groups) return;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < a) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  begin[a] = static_cast<int32_t>(low);
}

// y[t, i] = x[t, order[i]].
template <typename T>
__global__ void GatherColumnsKernel(const T* x, const int32_t* order, T* y, int64_t rows,
                                    int64_t columns) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < rows * columns;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = x[i / columns * columns + order[i % columns]];
  }
}

// Where the sums of group a and line k lie.
struct SumsAt {
  float* sums;
  int64_t group_stride, line_stride;
};

// Adds to each group's sums over its members in [first, first + rows), which are the rows of
// g[rows, lines]. A block is one group and kBlockThreads lines.
__global__ void GroupSquaresKernel(const float* g, const int32_t* begin, int64_t first,
                                   int64_t rows, int64_t lines, int64_t line_blocks, SumsAt out) {
  const int64_t a = blockIdx.x / line_blocks;
  const int64_t line = blockIdx.x % line_blocks * kBlockThreads + threadIdx.x;
  int64_t i = begin[a] - first, end = begin[a + 1] - first;
  if (i < 0) i = 0;
  if (end > rows) end = rows;
  if (i >= end || line >= lines) return;
  float sum = 0;
  for (; i < end; ++i) {
    const float value = g[i * lines + line];
    sum += value * value;
  }
  out.sums[a * out.group_stride + line * out.line_stride] += sum;
}

__global__ void AddSquaresKernel(const float* g, int64_t count, float* sums) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    sums[i] += g[i] * g[i];
  }
}

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
// gradient is made in strips of members, in the order of their groups, which stay in the cache
// until their squares are summed.
void CudaBackend::AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                                     const Tensor& column_group, Tensor sums) {
  if (failed()) return;
  contract::AddSquaredGradient(gy, x, row_group, column_group, sums);
  const int64_t T = gy.shape[0], A = sums.shape[0], B = sums.shape[1];
  const bool by_columns = !column_group.empty() && (row_group.empty() || B > A);
  const Tensor& group = by_columns ? column_group : row_group;
  const int64_t groups = by_columns ? B : A;
  const bool lines_too = !row_group.empty() && !column_group.empty();
  Tensor members = by_columns ? x : gy;
  const Tensor& lines = by_columns ? gy : x;
  const int64_t member_count = members.shape[1], line_count = lines.shape[1];

  Tensor begin;  // of each group, in the order of members
  if (!group.empty() && groups > 1) {
    const Tensor order = device_->Scratch(DType::kI32, {member_count}),
                 sorted = device_->Scratch(DType::kI32, {member_count});
    begin = device_->Scratch(DType::kI32, {groups + 1});
    Launch(*device_, {.x = CeilDiv(member_count, kBlockThreads)}, OrderKernel, Data<int32_t>(group),
           member_count, Data<int32_t>(order), Data<int32_t>(sorted));
    Launch(*device_, {.x = CeilDiv(groups + 1, kBlockThreads)}, GroupBeginsKernel,
           Data<int32_t>(sorted), member_count, groups, Data<int32_t>(begin));
    const Tensor gathered = device_->Scratch(members.dtype, members.shape);
    WithComputeType(members.dtype, [&](auto element) {
      using Element = decltype(element);
      Launch(*device_, ElementGrid(members.shape.elements()), GatherColumnsKernel<Element>,
             Data<Element>(members), Data<int32_t>(order), Data<Element>(gathered), T,
             member_count);
    });
    members = gathered;
  }

  SumsAt out{Data<float>(sums), by_columns ? 1 : line_count, by_columns ? groups : 1};
  Tensor by_line;  // [groups, lines], where the lines are one group too
  if (lines_too) {
    by_line = device_->Scratch(DType::kF32, {groups, line_count});
    device_->Clear(DeviceBytes(by_line), by_line.bytes());
    out = {Data<float>(by_line), line_count, 1};
  }
  const int64_t strip = StripRows(member_count, line_count);
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
      Launch(*device_, ElementGrid(rows * line_count), AddSquaresKernel, Data<float>(g),
             rows * line_count, Data<float>(sums) + first * line_count);
    } else if (groups == 1) {
      SumColumns(*device_, Squares{Data<float>(g), line_count}, rows, line_count, out.sums);
    } else {
      const int64_t line_blocks = CeilDiv(line_count, kBlockThreads);
      Launch(*device_, {.x = line_blocks * groups}, GroupSquaresKernel, Data<float>(g),
             Data<int32_t>(begin), first, rows, line_count, line_blocks, out);
    }
  }
  if (lines_too) {
    AddRowSums<false>(*device_, Data<float>(by_line), Data<float>(sums), groups, line_count);
  }
}

}  // namespace cvxq::cuda
