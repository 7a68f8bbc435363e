// Tiles of attention on tensor cores: blocks of four warps; a warp has rows of a tile, whole. Tiles
// lie in shared memory as rows of D BF16, kStride<D> apart: an odd number of 16-byte units, so that
// the eight rows that one load takes together lie in different banks. D is PaddedHeadDim(head_dim);
// what is beyond head_dim and beyond the last token is 0 (PackKernel).
//
// A warp's matrix of kM x 16 rows and kN x 8 columns is float s[kM][kN][4] in each lane, the last
// index as MmaBF16 says; RowOf and ColumnOf give the place of an element.
#ifndef CVXQ_KERNELS_CUDA_ATTENTION_TILE_CUH_
#define CVXQ_KERNELS_CUDA_ATTENTION_TILE_CUH_

#include <bit>
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/geometry.h"

namespace cvxq::cuda {

inline constexpr int kTileWarps = 4, kTileThreads = kTileWarps * kWarp;
inline constexpr float kLog2E = 1.4426950408889634f;

template <int D>
inline constexpr int kStride = D + 8;
template <int D>
constexpr int64_t TileBytes(int rows) {
  return int64_t{rows} * kStride<D> * 2;
}

__device__ inline int RowOf(int m, int e) {
  return m * 16 + static_cast<int>(threadIdx.x % kWarp / 4) + (e >= 2 ? 8 : 0);
}
__device__ inline int ColumnOf(int n, int e) {
  return n * 8 + 2 * static_cast<int>(threadIdx.x % 4) + e % 2;
}

// Starts the copy of kRows rows by all threads of the block, a few whole rows at a time, so that a
// thread's addresses differ by constants.
template <int D, int kRows>
__device__ void CopyTile(BF16* tile, const BF16* rows) {
  constexpr int kUnits = D / 8;  // of 16 bytes in a row
  constexpr int kRowsAtOnce = std::bit_floor(static_cast<unsigned>(kTileThreads / kUnits));
  static_assert(kRows % kRowsAtOnce == 0);
  const int row = static_cast<int>(threadIdx.x) / kUnits, unit = threadIdx.x % kUnits;
  if (row >= kRowsAtOnce) return;
  BF16* to = tile + row * kStride<D> + unit * 8;
  const BF16* from = rows + threadIdx.x * 8;
#pragma unroll
  for (int i = 0; i < kRows; i += kRowsAtOnce) CopyAsync16(to + i * kStride<D>, from + i * D);
}

// s = a b^T: kM x 16 rows of a and kN x 8 rows of b, all of D elements.
template <int D, int kM, int kN>
__device__ void MultiplyRows(const BF16* a, const BF16* b, float (&s)[kM][kN][4]) {
  const int row = threadIdx.x % 8, matrix = threadIdx.x % kWarp / 8;
  const BF16* of_a = a + (matrix % 2 * 8 + row) * kStride<D> + matrix / 2 * 8;
  const BF16* of_b = b + (matrix / 2 * 8 + row) * kStride<D> + matrix % 2 * 8;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
    }
  }
#pragma unroll 2  // the registers do not hold more that is loaded ahead
  for (int d = 0; d < D; d += 16) {
    uint32_t x[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) LoadMatrices4(x[m], of_a + m * 16 * kStride<D> + d);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t y[4];
      LoadMatrices4(y, of_b + n * 8 * kStride<D> + d);
      const uint32_t left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        MmaBF16(s[m][n], x[m], left);
        MmaBF16(s[m][n + 1], x[m], right);
      }
    }
  }
}

// out += p b with p rounded to BF16: kN x 8 rows of b, D columns. What a lane holds of p as a
// result is what it has to hold of it as a factor.
template <int D, int kM, int kN>
__device__ void AddProduct(const float (&p)[kM][kN][4], const BF16* b, float (&out)[kM][D / 8][4]) {
  const int row = threadIdx.x % 8, matrix = threadIdx.x % kWarp / 8;
  const BF16* of_b = b + (matrix % 2 * 8 + row) * kStride<D> + matrix / 2 * 8;
#pragma unroll
  for (int k = 0; k < kN; k += 2) {
    uint32_t x[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      x[m][0] = PackBF16(p[m][k][0], p[m][k][1]);
      x[m][1] = PackBF16(p[m][k][2], p[m][k][3]);
      x[m][2] = PackBF16(p[m][k + 1][0], p[m][k + 1][1]);
      x[m][3] = PackBF16(p[m][k + 1][2], p[m][k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t y[4];
      LoadMatrices4Transposed(y, of_b + k * 8 * kStride<D> + n * 8);
      const uint32_t left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        MmaBF16(out[m][n], x[m], left);
        MmaBF16(out[m][n + 1], x[m], right);
      }
    }
  }
}

// body(m, n, e) for each element that a lane holds.
template <int kM, int kN, typename Body>
__device__ void ForEachElement(const Body& body) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) body(m, n, e);
    }
  }
}

// body(row, column, two neighbours) for what a lane holds of a result.
template <int kM, int kN, typename Body>
__device__ void ForEachPair(const float (&out)[kM][kN][4], const Body& body) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        body(RowOf(m, e), ColumnOf(n, e), out[m][n][e], out[m][n][e + 1]);
      }
    }
  }
}

// Over the four lanes that share rows.
template <typename Op>
__device__ float ReduceQuad(float value, Op op) {
  value = op(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return op(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// Maximum and sum of a row's 2^score as they grow; a lane has the sum of its own columns. A NaN is
// not a maximum, but makes the sum one.
struct RunningRow {
  float max = -INFINITY, sum = 0;

  // Makes the scores of half h (0: elements 0 and 1, 1: elements 2 and 3) 2^(score - max). Returns
  // by what sums so far are to be multiplied.
  template <int kN>
  __device__ float Update(float (&s)[kN][4], int h) {
    float largest = max;
#pragma unroll
    for (int n = 0; n < kN; ++n) largest = fmaxf(largest, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    largest = ReduceQuad(largest, [](float a, float b) { return fmaxf(a, b); });
    const float base = largest == -INFINITY ? 0 : largest;  // nothing seen yet: all become 0
    const float factor = FastExp2(max - base);
    max = largest;
    sum *= factor;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 2 * h; e < 2 * h + 2; ++e) sum += s[n][e] = FastExp2(s[n][e] - base);
    }
    return factor;
  }
};

// Scores come out of products in units of log 2: q is packed with the factor QueryFactor. With a
// soft cap they come out in units of the cap, and Cap = cap log2(e) times their tanh is taken.
inline float QueryFactor(const AttentionShape& shape) {
  return shape.softcap > 0 ? shape.scale / shape.softcap : shape.scale * kLog2E;
}
inline float Cap(const AttentionShape& shape) { return shape.softcap * kLog2E; }

// Of scores, to about 2^-21 of 1, and short, since it is there for every element a lane holds.
__device__ inline float ScoreTanh(float x) {
  return 1 - 2 * FastReciprocal(1 + FastExp2(2 * kLog2E * x));
}

// x [B, T, heads, head_dim] (float) times `factor` as BF16 [B, heads, PaddedTokens(T),
// PaddedHeadDim(head_dim)] with zeros at the ends. `heads`: those of x.
Tensor PackHeads(Device& device, const AttentionShape& shape, int heads, int T, float factor,
                 const Tensor& x);

// body(std::integral_constant<int, PaddedHeadDim(head_dim)>).
template <typename Body>
void WithPaddedHeadDim(int head_dim, const Body& body) {
  switch (PaddedHeadDim(head_dim)) {
    case 64:
      return body(std::integral_constant<int, 64>());
    case 96:
      return body(std::integral_constant<int, 96>());
    case 128:
      return body(std::integral_constant<int, 128>());
    default:
      return body(std::integral_constant<int, 256>());
  }
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_ATTENTION_TILE_CUH_
