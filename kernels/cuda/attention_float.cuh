// Tiles of attention in float: a block of 256 threads, as 16 x 16, has 64 queries and goes through
// keys 64 at a time, or the other way round. Thread (y, x) has the scores of rows y + 16 i and
// columns x + 16 j, and of the result the rows y + 16 i and the columns x + 16 j of kDims.
#ifndef CVXQ_KERNELS_CUDA_ATTENTION_FLOAT_CUH_
#define CVXQ_KERNELS_CUDA_ATTENTION_FLOAT_CUH_

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda::attention_float {

inline constexpr int kSide = 16;                 // threads along either side
inline constexpr int kTile = 64, kEach = 4;      // rows and columns of a tile, of a thread
inline constexpr int kDims = 128, kEachDim = 8;  // columns of a result; longer heads take several
inline constexpr int kChunk = 16;                // what is summed over at a time
inline constexpr int kChunkStride = kTile + 2;   // no two of a warp in one bank
inline constexpr int kTileStride = kTile + 1;
inline constexpr int kWorkFloats = 2 * kChunk * kChunkStride;
static_assert(kWorkFloats >= kChunk * kDims && kSide * kSide == kBlockThreads);

// `count` rows of `length` elements, `stride` apart; what is outside reads as 0.
struct Rows {
  const float* data = nullptr;
  int64_t stride = 0;
  int count = 0, length = 0;

  __device__ float At(int row, int column) const {
    return row < count && column < length ? data[row * stride + column] : 0;
  }
};

// s = a b^T of two tiles. `work` is shared memory of kWorkFloats.
__device__ inline void Scores(const Rows& a, const Rows& b, float* work, float (&s)[kEach][kEach]) {
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
  float *as = work, *bs = work + kChunk * kChunkStride;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) s[i][j] = 0;
  }
  for (int d0 = 0; d0 < a.length; d0 += kChunk) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kChunk; i += kBlockThreads) {
      const int row = i / kChunk, d = i % kChunk;
      as[d * kChunkStride + row] = a.At(row, d0 + d);
      bs[d * kChunkStride + row] = b.At(row, d0 + d);
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kChunk; ++d) {
      float of_a[kEach], of_b[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        of_a[i] = as[d * kChunkStride + y + kSide * i];
        of_b[i] = bs[d * kChunkStride + x + kSide * i];
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) s[i][j] = Fma(of_a[i], of_b[j], s[i][j]);
      }
    }
  }
}

// A tile in shared memory [kTile, kTileStride], for AddWeighted, which waits for it.
__device__ inline void StoreTile(const float (&s)[kEach][kEach], float* tile) {
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) tile[(y + kSide * i) * kTileStride + x + kSide * j] = s[i][j];
  }
}

// out += w b, or w^T b, with the columns [d0, d0 + kDims) of b. The caller waits before w changes.
template <bool kTransposed>
__device__ void AddWeighted(const float* w, const Rows& b, int d0, float* work,
                            float (&out)[kEach][kEachDim]) {
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
  for (int k0 = 0; k0 < kTile; k0 += kChunk) {
    __syncthreads();
    for (int i = threadIdx.x; i < kChunk * kDims; i += kBlockThreads) {
      work[i] = b.At(k0 + i / kDims, d0 + i % kDims);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      float of_b[kEachDim];
#pragma unroll
      for (int j = 0; j < kEachDim; ++j) of_b[j] = work[k * kDims + x + kSide * j];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int row = y + kSide * i;
        const float weight =
            kTransposed ? w[(k0 + k) * kTileStride + row] : w[row * kTileStride + k0 + k];
#pragma unroll
        for (int j = 0; j < kEachDim; ++j) out[i][j] = Fma(weight, of_b[j], out[i][j]);
      }
    }
  }
}

// Over the sixteen threads that share rows.
template <typename Op>
__device__ float ReduceRow(float value, Op op) {
#pragma unroll
  for (int lanes = kSide / 2; lanes > 0; lanes /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  }
  return value;
}

// body(row, column, element) for what a thread has of a result of which `rows` x `columns` are
// wanted, from column d0.
template <typename Body>
__device__ void ForEachOut(const float (&out)[kEach][kEachDim], int rows, int columns, int d0,
                           const Body& body) {
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEachDim; ++j) {
      const int row = y + kSide * i, column = d0 + x + kSide * j;
      if (row < rows && column < columns) body(row, column, out[i][j]);
    }
  }
}

}  // namespace cvxq::cuda::attention_float

#endif  // CVXQ_KERNELS_CUDA_ATTENTION_FLOAT_CUH_
