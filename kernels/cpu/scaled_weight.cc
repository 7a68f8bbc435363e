#include "kernels/cpu/scaled_weight.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/cpu/product.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

// Rows of one task: enough that what is lost at its beginning does not count.
constexpr int64_t kTileRows = 64;

const ScaledKernels* KernelsOf(VectorLevel level) {
  switch (level) {
    case VectorLevel::kAvx512:
      return &kScaledKernelsAvx512;
    case VectorLevel::kAvx2:
      return &kScaledKernelsAvx2;
    case VectorLevel::kBaseline:
      break;
  }
  return &kScaledKernelsBaseline;
}

// The first outlier of row `row` or of one after it.
const ScaledOutlier* FirstOutlier(const ScaledMatrix& matrix, int64_t row) {
  const ScaledOutlier* begin = matrix.outliers.data();
  return std::partition_point(begin, begin + matrix.outliers.size(),
                              [&](const ScaledOutlier& outlier) { return outlier.row < row; });
}

// body(begin, end) for tiles of the rows [begin, end), in parallel.
void ForTiles(int64_t begin, int64_t end, ThreadPool& pool, const auto& body) {
  pool.ParallelFor((end - begin + kTileRows - 1) / kTileRows, [&](int64_t i) {
    const int64_t first = begin + i * kTileRows;
    body(first, std::min(end, first + kTileRows));
  });
}

// y[batch, M] from xs[batch, stride] = x * column_scale.
void MultiplyFew(const CpuScaledWeight& weight, const float* xs, int64_t stride, int batch,
                 const float* bias, float* y, ThreadPool& pool) {
  const ScaledMatrix& matrix = *weight.matrix;
  const int64_t M = matrix.rows, N = matrix.columns;
  ForTiles(0, M, pool, [&](int64_t begin, int64_t end) {
    float sums[kTileRows * kMaxScaledBatch];
    weight.kernels->multiply(matrix.codes.data() + begin * N, end - begin, N, xs, stride, batch,
                             sums);
    const ScaledOutlier* last = FirstOutlier(matrix, end);
    for (const ScaledOutlier* o = FirstOutlier(matrix, begin); o != last; ++o) {
      for (int t = 0; t < batch; ++t) {
        sums[(o->row - begin) * batch + t] +=
            static_cast<float>(o->code) * xs[t * stride + o->column];
      }
    }
    for (int64_t r = begin; r < end; ++r) {
      for (int t = 0; t < batch; ++t) {
        const float value = matrix.row_scale[r] * sums[(r - begin) * batch + t];
        y[t * M + r] = bias == nullptr ? value : value + bias[r];
      }
    }
  });
}

void Put(float value, float* to) { *to = value; }
void Put(float value, uint16_t* to) { *to = FloatToBF16(value); }

auto WriteOf(const ScaledKernels& kernels, float*) { return kernels.write_float; }
auto WriteOf(const ScaledKernels& kernels, uint16_t*) { return kernels.write_bf16; }

template <typename T>
void Unpack(const CpuScaledWeight& weight, int64_t begin, int64_t end, T* w, ThreadPool& pool) {
  const ScaledMatrix& matrix = *weight.matrix;
  const int64_t N = matrix.columns;
  const auto write = WriteOf(*weight.kernels, w);
  ForTiles(begin, end, pool, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      write(matrix.codes.data() + r * N, N, matrix.row_scale[r], matrix.column_scale.data(),
            w + (r - begin) * N);
    }
    const ScaledOutlier* beyond = FirstOutlier(matrix, last);
    for (const ScaledOutlier* o = FirstOutlier(matrix, first); o != beyond; ++o) {
      const float scaled = static_cast<float>(o->code) * matrix.row_scale[o->row];
      Put(scaled * matrix.column_scale[o->column], w + (o->row - begin) * N + o->column);
    }
  });
}

}  // namespace

CpuScaledWeight::CpuScaledWeight(std::shared_ptr<const ScaledMatrix> codes, DType compute_dtype,
                                 VectorLevel level)
    : matrix(std::move(codes)), compute(compute_dtype), kernels(KernelsOf(level)) {
  rows = matrix->rows;
  columns = matrix->columns;
}

void ScaledProduct(const CpuScaledWeight& weight, const float* x, int64_t n, const float* bias,
                   float* y, ThreadPool& pool) {
  const int64_t M = weight.rows, N = weight.columns;
  const std::vector<float>& scale = weight.matrix->column_scale;
  constexpr int64_t kCacheLine = 16;  // floats
  const int64_t stride = (N + kCacheLine - 1) / kCacheLine * kCacheLine;
  float* xs = FloatScratch(5, std::min<int64_t>(n, kMaxScaledBatch) * stride);
  for (int64_t first = 0; first < n; first += kMaxScaledBatch) {
    const int batch = static_cast<int>(std::min<int64_t>(kMaxScaledBatch, n - first));
    for (int t = 0; t < batch; ++t) {
      const float* from = x + (first + t) * N;
      for (int64_t c = 0; c < N; ++c) xs[t * stride + c] = scale[c] * from[c];
    }
    MultiplyFew(weight, xs, stride, batch, bias, y + first * M, pool);
  }
}

void UnpackToFloat(const CpuScaledWeight& weight, int64_t begin, int64_t end, float* w,
                   ThreadPool& pool) {
  Unpack(weight, begin, end, w, pool);
}

void UnpackToBF16(const CpuScaledWeight& weight, int64_t begin, int64_t end, uint16_t* w,
                  ThreadPool& pool) {
  Unpack(weight, begin, end, w, pool);
}

}  // namespace cvxq
