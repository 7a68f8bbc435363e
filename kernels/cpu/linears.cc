// Linears.
#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"

namespace cvxq {

void CpuBackend::Linear(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) {
  if (failed()) return;
  contract::Linear(x, w, bias, y);
  const int64_t n = x.shape[0], M = w.shape[0], N = w.shape[1];
  const float* bias_data = bias.empty() ? nullptr : ConstHostData<float>(bias);
  float* c = HostData<float>(y);
  if (n <= kMostDots) {
    // Generation: the time goes into reading W once, which plain dot products do without the
    // copies of W that a product of tiles makes.
    const Tensor wide = As(DType::kF32, x);
    if (failed()) return;
    const float* rows = ConstHostData<float>(wide);
    ParallelPieces(M, N, [&](int64_t begin, int64_t end) {
      float dots[kMostDots];
      for (int64_t m = begin; m < end; ++m) {
        if (w.dtype == DType::kF32) {
          ops_.dots(rows, n, N, ConstHostData<float>(w) + m * N, N, dots);
        } else {
          ops_.dots_bf16(rows, n, N, ConstHostData<uint16_t>(w) + m * N, N, dots);
        }
        for (int64_t i = 0; i < n; ++i) {
          c[i * M + m] = bias_data == nullptr ? dots[i] : dots[i] + bias_data[m];
        }
      }
    });
    return;
  }
  MultiplyRows(x, ConstHostData<std::byte>(w), 0, M, bias, y);
}

void CpuBackend::MultiplyRows(const Tensor& x, const std::byte* w, int64_t begin, int64_t end,
                              const Tensor& bias, const Tensor& y) {
  const int64_t n = x.shape[0], N = x.shape[1], M = y.shape[1];
  const Product product{.m = n,
                        .n = end - begin,
                        .k = N,
                        .transpose_b = true,
                        .lda = N,
                        .ldb = N,
                        .ldc = M,
                        .dtype = x.dtype};
  const std::byte* a = ConstHostData<std::byte>(x);
  const float* bias_data = bias.empty() ? nullptr : ConstHostData<float>(bias) + begin;
  float* c = HostData<float>(y) + begin;
  const TileGrid grid(n, end - begin);
  pool_.ParallelFor(grid.count(), [&](int64_t i) {
    const Tile tile = grid[i];
    MultiplyTile(products_, product, tile, a, w, c);
    for (int64_t row = tile.row; bias_data != nullptr && row < tile.row + tile.rows; ++row) {
      ops_.add_scaled(1, bias_data + tile.column, c + row * M + tile.column, tile.columns);
    }
  });
}

void CpuBackend::LinearBackward(const Tensor& gy, const Tensor& w, Tensor gx, bool accumulate) {
  if (failed()) return;
  contract::LinearBackward(gy, w, gx);
  const int64_t n = gy.shape[0], M = w.shape[0], N = w.shape[1];
  const Product product{.m = n,
                        .n = N,
                        .k = M,
                        .lda = M,
                        .ldb = N,
                        .ldc = N,
                        .dtype = gy.dtype,
                        .accumulate = accumulate};
  const std::byte *a = ConstHostData<std::byte>(gy), *b = ConstHostData<std::byte>(w);
  float* c = HostData<float>(gx);
  const TileGrid grid(n, N);
  pool_.ParallelFor(grid.count(),
                    [&](int64_t i) { MultiplyTile(products_, product, grid[i], a, b, c); });
}

}  // namespace cvxq
