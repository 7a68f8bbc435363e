// Attention on tensor cores: FlashAttention-2's forward pass (arXiv 2307.08691, algorithm 1).
#include "kernels/cuda/attention_output.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// Eight elements for each thread.
__global__ void PackKernel(const float* x, int B, int heads, int head_dim, int T, int padded_T,
                           int padded_dim, float factor, BF16* packed) {
  const int units = padded_dim / 8;
  const int64_t count = int64_t{B} * heads * padded_T * units;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int d = static_cast<int>(i % units) * 8, t = static_cast<int>(i / units % padded_T);
    const int64_t bh = i / units / padded_T;
    const float* row = x + ((bh / heads * T + t) * heads + bh % heads) * head_dim + d;
    float values[8] = {};
    if (t < T && head_dim % 4 == 0) {
#pragma unroll
      for (int j = 0; j < 8; j += 4) {
        if (d + j >= head_dim) continue;
        const float4 four = *reinterpret_cast<const float4*>(row + j);
        values[j] = four.x;
        values[j + 1] = four.y;
        values[j + 2] = four.z;
        values[j + 3] = four.w;
      }
    } else if (t < T) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (d + j < head_dim) values[j] = row[j];
      }
    }
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      pairs[j] = PackBF16(values[2 * j] * factor, values[2 * j + 1] * factor);
    }
    reinterpret_cast<uint4*>(packed)[i] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

// A warp's rows are read from shared memory for each use and its part of y is in registers, so for
// long heads it has fewer. For head_dim 128: 68 KB of shared memory, two blocks on a multiprocessor
// of compute capability 9.0.
template <int D>
struct ForwardTile {
  static constexpr int kM = D <= 128 ? 2 : 1;
  static constexpr int kQueries = kTileWarps * kM * 16, kKeys = 64;
  static constexpr int64_t kSharedBytes = TileBytes<D>(kQueries + 2 * kKeys);
  static_assert(kTokenTile % kQueries == 0 && kTokenTile % kKeys == 0);
  static_assert(kSharedBytes <= 99 << 10);
};

// While one product is computed, the tile for the next is on its way: v of this step during q k^T,
// k of the next during p v.
template <int D>
__global__ void __launch_bounds__(kTileThreads, 2)
    ForwardKernel(AttentionShape shape, float cap, const BF16* q, const BF16* k, const BF16* v,
                  AttentionOutput y) {
  using Tile = ForwardTile<D>;
  constexpr int kM = Tile::kM, kN = Tile::kKeys / 8;
  BF16* qs = reinterpret_cast<BF16*>(DynamicShared());
  BF16* ks = qs + Tile::kQueries * kStride<D>;
  BF16* vs = ks + Tile::kKeys * kStride<D>;
  // The last queries see most keys and come first.
  const int bh = blockIdx.x, first = static_cast<int>(gridDim.y - 1 - blockIdx.y) * Tile::kQueries;
  const int position = shape.Tk - shape.Tq + first;
  const int last = position + Tile::kQueries < shape.Tk ? position + Tile::kQueries : shape.Tk;
  const Span seen = KeysSeen(position, last - 1, shape.window);
  const int begin = seen.begin / Tile::kKeys * Tile::kKeys;
  const int kv = bh / shape.group * PaddedTokens(shape.Tk);  // rows before those of b, head / group

  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * kM * 16;
  const int warp_position = position + warp_row;
  CopyTile<D, Tile::kQueries>(qs, q + (int64_t{bh} * PaddedTokens(shape.Tq) + first) * D);
  CopyTile<D, Tile::kKeys>(ks, k + int64_t{kv + begin} * D);
  CommitCopies();
  RunningRow running[kM][2];
  float out[kM][D / 8][4] = {};
  for (int key = begin; key < seen.end; key += Tile::kKeys) {
    WaitForCopies<0>();
    __syncthreads();  // k is there, and nobody needs v any more
    CopyTile<D, Tile::kKeys>(vs, v + int64_t{kv + key} * D);
    CommitCopies();
    float s[kM][kN][4];
    MultiplyRows<D>(qs + warp_row * kStride<D>, ks, s);
    WaitForCopies<0>();
    __syncthreads();  // v is there, and nobody needs k any more
    if (key + Tile::kKeys < seen.end) {
      CopyTile<D, Tile::kKeys>(ks, k + int64_t{kv + key + Tile::kKeys} * D);
      CommitCopies();
    }
    if (cap > 0) {
      ForEachElement<kM, kN>(
          [&](int m, int n, int e) { s[m][n][e] = cap * ScoreTanh(s[m][n][e]); });
    }
    if (key + Tile::kKeys - 1 > warp_position ||
        key <= warp_position + kM * 16 - 1 - shape.window) {
      ForEachElement<kM, kN>([&](int m, int n, int e) {
        if (!shape.Sees(warp_position + RowOf(m, e), key + ColumnOf(n, e))) {
          s[m][n][e] = -INFINITY;
        }
      });
    }
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float factor = running[m][h].Update(s[m], h);
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          out[m][n][2 * h] *= factor;
          out[m][n][2 * h + 1] *= factor;
        }
      }
    }
    AddProduct<D>(s, vs, out);
  }

#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float inverse = FastReciprocal(ReduceQuad(running[m][h].sum, Sum()));
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        out[m][n][2 * h] *= inverse;
        out[m][n][2 * h + 1] *= inverse;
      }
    }
  }
  const int64_t row = int64_t{bh / shape.heads} * shape.Tq + first + warp_row;
  const int64_t head = int64_t{bh % shape.heads} * shape.head_dim;
  ForEachPair(out, [&](int i, int d, float left, float right) {
    if (first + warp_row + i < shape.Tq && d < shape.head_dim) {
      y.PutPair((row + i) * shape.width() + head + d, left, right);
    }
  });
}

}  // namespace

Tensor PackHeads(Device& device, const AttentionShape& shape, int heads, int T, float factor,
                 const Tensor& x) {
  const int padded_T = PaddedTokens(T), padded_dim = PaddedHeadDim(shape.head_dim);
  const Tensor packed =
      device.Scratch(DType::kBF16, {int64_t{shape.B} * heads, padded_T, padded_dim});
  Launch(device, ElementGrid(packed.shape.elements() / 8), PackKernel, Data<float>(x), shape.B,
         heads, shape.head_dim, T, padded_T, padded_dim, factor, Data<BF16>(packed));
  return packed;
}

void AttentionBF16(Device& device, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                   const Tensor& v, const Tensor& y) {
  const Tensor packed_q = PackHeads(device, shape, shape.heads, shape.Tq, QueryFactor(shape), q);
  const Tensor packed_k = PackHeads(device, shape, shape.kv_heads(), shape.Tk, 1, k);
  const Tensor packed_v = PackHeads(device, shape, shape.kv_heads(), shape.Tk, 1, v);
  WithPaddedHeadDim(shape.head_dim, [&](auto padded) {
    constexpr int D = decltype(padded)::value;
    Launch(device,
           {.x = int64_t{shape.B} * shape.heads,
            .y = CeilDiv(shape.Tq, ForwardTile<D>::kQueries),
            .threads = kTileThreads,
            .shared_bytes = ForwardTile<D>::kSharedBytes},
           ForwardKernel<D>, shape, Cap(shape), Data<BF16>(packed_q), Data<BF16>(packed_k),
           Data<BF16>(packed_v), AttentionOutput::Of(y));
  });
}

}  // namespace cvxq::cuda
