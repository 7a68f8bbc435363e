// Sums over tokens: second moments, means, squared gradients.
#include <algorithm>
#include <cstring>

#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"

namespace cvxq {
namespace {

// Copies the tile [rows, columns] at `upper` to its mirror image at `lower`, by small squares that
// stay in the first cache. Where the two are the same tile, its upper triangle wins.
void Mirror(const float* upper, float* lower, int64_t rows, int64_t columns, int64_t stride) {
  constexpr int64_t kSquare = 16;
  const bool same = upper == lower;
  for (int64_t i0 = 0; i0 < rows; i0 += kSquare) {
    const int64_t i1 = std::min(rows, i0 + kSquare);
    for (int64_t j0 = same ? i0 : 0; j0 < columns; j0 += kSquare) {
      const int64_t j1 = std::min(columns, j0 + kSquare);
      for (int64_t j = j0; j < j1; ++j) {
        const int64_t end = same ? std::min(i1, j) : i1;
        for (int64_t i = i0; i < end; ++i) lower[j * stride + i] = upper[i * stride + j];
      }
    }
  }
}

}  // namespace

void CpuBackend::AddSquareSecondMoment(const Tensor& x, int64_t begin, int64_t end, float* h,
                                       int64_t stride) {
  const int64_t n = x.shape[0], N = x.shape[1], size = end - begin;
  const Product product{.m = size,
                        .n = size,
                        .k = n,
                        .transpose_a = true,
                        .lda = N,
                        .ldb = N,
                        .ldc = stride,
                        .dtype = x.dtype,
                        .accumulate = true};
  const std::byte* columns = ConstHostData<std::byte>(x) + begin * ByteSize(x.dtype);
  const int64_t edge = size >= 4096 ? 512 : size >= 512 ? 256 : 128;
  const TileGrid grid(size, size, edge, edge);
  // Task t is the tile (r, c), r <= c, with t = c (c + 1) / 2 + r.
  const int64_t tiles = grid.row_tiles();
  pool_.ParallelFor(tiles * (tiles + 1) / 2, [&](int64_t t) {
    int64_t c = 0;
    while ((c + 1) * (c + 2) / 2 <= t) ++c;
    const Tile tile = grid.At(t - c * (c + 1) / 2, c);
    MultiplyTile(products_, product, tile, columns, columns, h);
    Mirror(h + tile.row * stride + tile.column, h + tile.column * stride + tile.row, tile.rows,
           tile.columns, stride);
  });
}

void CpuBackend::AddSecondMoment(const Tensor& x, Tensor h) {
  if (failed()) return;
  contract::AddSecondMoment(x, h);
  AddSquareSecondMoment(x, 0, x.shape[1], HostData<float>(h), x.shape[1]);
}

void CpuBackend::AddBlockSecondMoment(const Tensor& x, Tensor h) {
  if (failed()) return;
  contract::AddBlockSecondMoment(x, h);
  const int64_t N = x.shape[1], b = h.shape[2];
  float* blocks = HostData<float>(h);
  // A loop inside a task runs on the task's thread.
  pool_.ParallelFor(h.shape[0], [&](int64_t i) {
    AddSquareSecondMoment(x, i * b, std::min(N, (i + 1) * b), blocks + i * b * b, b);
  });
}

void CpuBackend::AddColumnSums(const Tensor& x, Tensor sums) {
  if (failed()) return;
  contract::AddColumnSums(x, sums);
  const int64_t n = x.shape[0], N = x.shape[1];
  float* out = HostData<float>(sums);
  constexpr int64_t kColumns = 256;
  pool_.ParallelFor((N + kColumns - 1) / kColumns, [&](int64_t i) {
    const int64_t begin = i * kColumns, columns = std::min(kColumns, N - begin);
    if (x.dtype == DType::kF32) {
      ops_.add_column_sums(ConstHostData<float>(x) + begin, n, N, columns, out + begin);
    } else {
      ops_.add_column_sums_bf16(ConstHostData<uint16_t>(x) + begin, n, N, columns, out + begin);
    }
  });
}

void CpuBackend::AddRowSquares(const Tensor& x, Tensor sums) {
  if (failed()) return;
  contract::AddRowSquares(x, sums);
  const int64_t N = x.shape[1];
  float* out = HostData<float>(sums);
  constexpr int64_t kRows = 16;
  pool_.ParallelFor((x.shape[0] + kRows - 1) / kRows, [&](int64_t piece) {
    std::vector<float> row(N);
    for (int64_t i = piece * kRows; i < std::min(x.shape[0], (piece + 1) * kRows); ++i) {
      const float* values = row.data();
      if (x.dtype == DType::kF32) {
        values = ConstHostData<float>(x) + i * N;
      } else {
        const uint16_t* halves = ConstHostData<uint16_t>(x) + i * N;
        for (int64_t k = 0; k < N; ++k) row[k] = BF16ToFloat(halves[k]);
      }
      out[i] += ops_.sum_of_squares(values, N);
    }
  });
}

namespace {

// How the output of a squared gradient is cut in tasks. Along an axis that is the identity a task
// owns its part of the sums. Along a grouped axis several tasks would add to the same sums, so each
// chunk of it has sums of its own (a partial), added up in order at the end.
struct Chunks {
  int64_t size = 0, count = 0;
};

Chunks CutAxis(int64_t extent, int64_t tile, int64_t most) {
  const int64_t tiles = std::max<int64_t>(1, (extent + tile - 1) / tile);
  const int64_t tiles_each = (tiles + most - 1) / most;
  return {tiles_each * tile, (tiles + tiles_each - 1) / tiles_each};
}

}  // namespace

void CpuBackend::AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                                    const Tensor& column_group, Tensor sums) {
  if (failed()) return;
  contract::AddSquaredGradient(gy, x, row_group, column_group, sums);
  const int64_t T = gy.shape[0], M = gy.shape[1], N = x.shape[1];
  const int64_t A = sums.shape[0], B = sums.shape[1];
  const Product product{
      .m = M, .n = N, .k = T, .transpose_a = true, .lda = M, .ldb = N, .dtype = gy.dtype};
  const std::byte *a = ConstHostData<std::byte>(gy), *b = ConstHostData<std::byte>(x);
  const int32_t* rows = row_group.empty() ? nullptr : ConstHostData<int32_t>(row_group);
  const int32_t* columns = column_group.empty() ? nullptr : ConstHostData<int32_t>(column_group);
  for (int64_t m = 0; rows != nullptr && m < M; ++m) {
    Require(rows[m] >= 0 && rows[m] < A, "AddSquaredGradient: a row group is out of range");
  }
  for (int64_t k = 0; columns != nullptr && k < N; ++k) {
    Require(columns[k] >= 0 && columns[k] < B,
            "AddSquaredGradient: a column group is out of range");
  }

  // Partials are limited in number and in bytes.
  constexpr int64_t kRows = 256, kColumns = 512, kMostPartials = 16, kMostElements = 8 << 20;
  const int64_t most =
      std::clamp<int64_t>(kMostElements / std::max<int64_t>(1, A * B), 1, kMostPartials);
  const Chunks row_chunks = CutAxis(M, kRows, rows ? most : M);
  const Chunks column_chunks = CutAxis(N, kColumns, columns ? (rows ? 1 : most) : N);
  const int64_t row_partials = rows ? row_chunks.count : 1;
  const int64_t partials = row_partials * (columns ? column_chunks.count : 1);
  Tensor partial_sums;
  float* out = HostData<float>(sums);
  if (partials > 1) {
    partial_sums = Allocate(DType::kF32, {partials, A * B});
    if (failed()) return;
    Fill(partial_sums, 0);
    out = HostData<float>(partial_sums);
  }

  pool_.ParallelFor(row_chunks.count * column_chunks.count, [&](int64_t task) {
    const int64_t row_chunk = task % row_chunks.count, column_chunk = task / row_chunks.count;
    const int64_t partial = (rows ? row_chunk : 0) + row_partials * (columns ? column_chunk : 0);
    float* mine = out + partial * A * B;
    const int64_t row_end = std::min(M, (row_chunk + 1) * row_chunks.size);
    const int64_t column_end = std::min(N, (column_chunk + 1) * column_chunks.size);
    float* g = FloatScratch(2, kRows * kColumns);
    for (int64_t column = column_chunk * column_chunks.size; column < column_end;
         column += kColumns) {
      for (int64_t row = row_chunk * row_chunks.size; row < row_end; row += kRows) {
        const Tile tile{row, std::min(kRows, row_end - row), column,
                        std::min(kColumns, column_end - column)};
        Product part = product;
        part.m = tile.rows;
        part.n = tile.columns;
        part.ldc = tile.columns;
        const int64_t size = ByteSize(product.dtype);
        Multiply(products_, part, a + tile.row * size, b + tile.column * size, g);
        for (int64_t i = 0; i < tile.rows; ++i) {
          const float* line = g + i * tile.columns;
          float* group = mine + (rows ? rows[tile.row + i] : tile.row + i) * B;
          if (columns == nullptr) {
            ops_.add_squares(line, group + tile.column, tile.columns);
          } else if (B == 1) {
            group[0] += ops_.sum_of_squares(line, tile.columns);
          } else {
            const int32_t* column_of = columns + tile.column;
            for (int64_t j = 0; j < tile.columns; ++j) group[column_of[j]] += line[j] * line[j];
          }
        }
      }
    }
  });

  if (partials > 1) {
    float* total = HostData<float>(sums);
    ParallelPieces(A * B, partials, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < partials; ++i) {
        ops_.add_scaled(1, out + i * A * B + begin, total + begin, end - begin);
      }
    });
  }
}

}  // namespace cvxq
