// Scaled matrices (kernels/scaled_matrix.h): products in float straight from their bytes, and
// decoding.
//
// Rows are cut in chunks of 512 columns, the last filled up with zeros. A lane has 16 codes of a
// chunk side by side, those of columns 128 i + 4 lane + k, i and k in [0, 4): so both the codes and
// x are read in full vectors. A block multiplies a few rows, each warp every eighth chunk of them.
#include <algorithm>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

constexpr int kChunk = 512, kPart = 128;  // columns
constexpr int kWarps = kBlockThreads / kWarp;

// Where the code of a column stands in its row.
__host__ __device__ constexpr int64_t PlaceOfColumn(int64_t column) {
  const int64_t of_chunk = column % kChunk;
  return column - of_chunk + of_chunk % kPart / 4 * 16 + of_chunk / kPart * 4 + of_chunk % 4;
}

struct ScaledView {
  int64_t M = 0, N = 0, chunks = 0;
  const uint8_t* codes = nullptr;  // [M, chunks * kChunk], code + 128
  const float* row_scale = nullptr;
  const float* column_scale = nullptr;
  const ScaledOutlier* outliers = nullptr;
  const int64_t* first_outlier = nullptr;  // [M + 1] of each row
};

struct Scaled : public CudaPackedWeight {
  ScaledView view;
  Tensor memory[5];                    // what the view points to
  std::vector<int64_t> first_outlier;  // as in the view, here

  void MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                   const Tensor& y) const override;
  void UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const override;
};

// The code in byte i of a word, exactly: 2^23 + (code + 128) has those bytes.
__device__ inline float CodeOf(uint32_t word, int i) {
  return __uint_as_float(ChooseBytes(word, 0x4b000000u, 0x7440u + i)) - 8388736.0f;
}

// Four neighbouring values of a row of `size` values, zeros beyond it.
__device__ inline float4 LoadFour(const float* row, int64_t column, int64_t size, bool aligned) {
  if (aligned && column + 4 <= size) return *reinterpret_cast<const float4*>(row + column);
  const auto at = [&](int64_t j) { return j < size ? row[j] : 0; };
  return make_float4(at(column), at(column + 1), at(column + 2), at(column + 3));
}

// y[n, M] from x[n, N], n <= kVectors. A row's sum has the same order for any kVectors and kRows.
template <int kRows, int kVectors>
__global__ __launch_bounds__(kBlockThreads) void ScaledKernel(ScaledView view, const float* x,
                                                              int n, const float* bias, float* y) {
  __shared__ float warp_sums[kWarps][kRows][kVectors];
  const int64_t first_row = blockIdx.x * int64_t{kRows};
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const bool aligned = view.N % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
  float sums[kRows][kVectors] = {};
  for (int64_t chunk = warp; chunk < view.chunks; chunk += kWarps) {
    uint4 codes[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first_row + r < view.M ? first_row + r : view.M - 1;
      codes[r] = LoadStreaming(reinterpret_cast<const uint4*>(view.codes) +
                               (row * view.chunks + chunk) * kWarp + lane);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t column = chunk * kChunk + i * kPart + 4 * lane;
      const float4 scale = LoadFour(view.column_scale, column, view.N, true);
      float values[kRows][4];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const uint32_t word = i == 0   ? codes[r].x
                              : i == 1 ? codes[r].y
                              : i == 2 ? codes[r].z
                                       : codes[r].w;
#pragma unroll
        for (int k = 0; k < 4; ++k) values[r][k] = CodeOf(word, k);
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (v >= n) break;
        float4 scaled = LoadFour(x + v * view.N, column, view.N, aligned);
        scaled.x *= scale.x;
        scaled.y *= scale.y;
        scaled.z *= scale.z;
        scaled.w *= scale.w;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          float sum = Fma(values[r][0], scaled.x, sums[r][v]);
          sum = Fma(values[r][1], scaled.y, sum);
          sum = Fma(values[r][2], scaled.z, sum);
          sums[r][v] = Fma(values[r][3], scaled.w, sum);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float sum = WarpReduce(sums[r][v], Sum());
      if (lane == 0) warp_sums[warp][r][v] = sum;
    }
  }
  __syncthreads();
  const int r = threadIdx.x / kVectors, v = threadIdx.x % kVectors;
  const int64_t row = first_row + r;
  if (r >= kRows || v >= n || row >= view.M) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += warp_sums[w][r][v];
  for (int64_t o = view.first_outlier[row]; o < view.first_outlier[row + 1]; ++o) {
    const ScaledOutlier& outlier = view.outliers[o];
    sum = Fma(static_cast<float>(outlier.code),
              x[v * view.N + outlier.column] * view.column_scale[outlier.column], sum);
  }
  const float value = MulRounded(view.row_scale[row], sum);
  y[v * view.M + row] = bias == nullptr ? value : value + bias[row];
}

__device__ inline float Value(const ScaledView& view, float code, int64_t row, int64_t column) {
  return MulRounded(MulRounded(code, view.row_scale[row]), view.column_scale[column]);
}

// w[rows, N] = the rows from first_row on, without outliers.
template <typename T>
__global__ void UnpackScaledKernel(ScaledView view, int64_t first_row, int64_t rows, T* w) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < rows * view.N;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = first_row + i / view.N, column = i % view.N;
    const int code = view.codes[row * view.chunks * kChunk + PlaceOfColumn(column)] - 128;
    w[i] = FromFloat<T>(Value(view, static_cast<float>(code), row, column));
  }
}

// The outliers [begin, end) of w[., N], whose first row is first_row.
template <typename T>
__global__ void UnpackOutliersKernel(ScaledView view, int64_t begin, int64_t end, int64_t first_row,
                                     T* w) {
  for (int64_t o = begin + blockIdx.x * int64_t{blockDim.x} + threadIdx.x; o < end;
       o += int64_t{gridDim.x} * blockDim.x) {
    const ScaledOutlier& outlier = view.outliers[o];
    w[(outlier.row - first_row) * view.N + outlier.column] =
        FromFloat<T>(Value(view, static_cast<float>(outlier.code), outlier.row, outlier.column));
  }
}

}  // namespace

std::shared_ptr<CudaPackedWeight> MakeScaled(Device& device, const ScaledMatrix& matrix,
                                             DType compute) {
  auto weight = std::make_shared<Scaled>();
  const int64_t M = matrix.rows, N = matrix.columns, chunks = CeilDiv(N, kChunk);
  weight->rows = weight->stored_rows = M;
  weight->columns = N;
  weight->compute = compute;
  std::vector<uint8_t> codes(M * chunks * kChunk, 128);
  for (int64_t r = 0; r < M; ++r) {
    uint8_t* to = codes.data() + r * chunks * kChunk;
    const int8_t* from = matrix.codes.data() + r * N;
    for (int64_t c = 0; c < N; ++c) {
      to[PlaceOfColumn(c)] = static_cast<uint8_t>(from[c] + 128);
    }
  }
  std::vector<int64_t>& first = weight->first_outlier;
  first.assign(M + 1, 0);
  for (const ScaledOutlier& outlier : matrix.outliers) ++first[outlier.row + 1];
  for (int64_t r = 0; r < M; ++r) first[r + 1] += first[r];

  auto next = std::begin(weight->memory);
  const auto upload = [&]<typename T>(const std::vector<T>& values) -> const T* {
    *next = Upload(device, values);
    return device.failed() ? nullptr : reinterpret_cast<const T*>(DeviceBytes(*next++));
  };
  weight->view = {.M = M, .N = N, .chunks = chunks};
  weight->view.codes = upload(codes);
  weight->view.row_scale = upload(matrix.row_scale);
  weight->view.column_scale = upload(matrix.column_scale);
  weight->view.outliers = upload(matrix.outliers);
  weight->view.first_outlier = upload(first);
  return weight;
}

void Scaled::MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                         const Tensor& y) const {
  constexpr int kRowsOfOne = 8, kRowsOfFew = 2;
  const auto n = static_cast<int>(x.shape[0]);
  const auto launch = [&](int64_t block_rows, auto kernel) {
    Launch(device, {.x = CeilDiv(rows, block_rows)}, kernel, view, Data<float>(x), n,
           Data<float>(bias), Data<float>(y));
  };
  if (n == 1) return launch(kRowsOfOne, ScaledKernel<kRowsOfOne, 1>);
  launch(kRowsOfFew, ScaledKernel<kRowsOfFew, kFewRows>);
}

void Scaled::UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const {
  WithComputeType(w.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(device, ElementGrid((end - begin) * columns), UnpackScaledKernel<T>, view, begin,
           end - begin, Data<T>(w));
    const int64_t first = first_outlier[begin], last = first_outlier[end];
    Launch(device, ElementGrid(last - first), UnpackOutliersKernel<T>, view, first, last, begin,
           Data<T>(w));
  });
}

}  // namespace cvxq::cuda
