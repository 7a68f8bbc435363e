// The backward pass of attention on tensor cores. In the manner of FlashAttention-2 (arXiv
// 2307.08691, algorithm 2), but gq has a kernel of its own, so that no sum needs atomics:
//   QueryGradientKernel  64 queries against all keys, twice: the log of the sum of exponents and
//                        sum p gp of each query, then gs and gq = gs k;
//   KeyGradientKernel    64 keys against all queries of all heads that share them: gv = p^T gy,
//                        gk = gs^T q. Everything is transposed, so that p^T and gs^T come out of
//                        products as they go into the next.
// with gp = gy v^T, gs = slope p (gp - sum p gp); q, k and scores are in the units of QueryFactor.
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

constexpr int kRows = kTileWarps * 16;  // of a block's tile

// s becomes cap tanh(s); g is multiplied by the derivative of the tanh.
template <int kN>
__device__ void CapScores(float cap, float (&s)[1][kN][4], float (&g)[1][kN][4]) {
  ForEachElement<1, kN>([&](int m, int n, int e) {
    const float capped = ScoreTanh(s[m][n][e]);
    g[m][n][e] *= 1 - capped * capped;
    s[m][n][e] = cap * capped;
  });
}

template <int D>
struct QueryTile {
  static constexpr int kKeys = D <= 128 ? 64 : 32;
  static constexpr int64_t kSharedBytes = TileBytes<D>(2 * kRows + 2 * kKeys);
  static_assert(kSharedBytes <= 99 << 10 && kTokenTile % kRows == 0);
};

// stats[B, heads, PaddedTokens(T)]: {log2 of the sum of 2^score, sum p gp}. For queries beyond T
// the first is infinite, so that p is 0.
template <int D>
__global__ void __launch_bounds__(kTileThreads, 2)
    QueryGradientKernel(AttentionShape shape, float cap, const BF16* q, const BF16* k,
                        const BF16* v, const BF16* gy, float2* stats, float* gq) {
  constexpr int kKeys = QueryTile<D>::kKeys, kN = kKeys / 8;
  BF16* qs = reinterpret_cast<BF16*>(DynamicShared());
  BF16* gys = qs + kRows * kStride<D>;
  BF16* ks = gys + kRows * kStride<D>;
  BF16* vs = ks + kKeys * kStride<D>;
  const int T = shape.Tq, of_head = shape.B * shape.heads, bh = blockIdx.x % of_head;
  const int tiles = (T + kRows - 1) / kRows;
  const int first = (tiles - 1 - static_cast<int>(blockIdx.x) / of_head) * kRows;
  const int last = first + kRows < T ? first + kRows : T;
  const Span seen = KeysSeen(first, last - 1, shape.window);
  const int begin = seen.begin / kKeys * kKeys, steps = (seen.end - begin + kKeys - 1) / kKeys;
  const int64_t queries = (int64_t{bh} * PaddedTokens(T) + first) * D;
  const int64_t kv = int64_t{bh / shape.group} * PaddedTokens(T) * D;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * 16, position = first + warp_row;

  CopyTile<D, kRows>(qs, q + queries);
  CopyTile<D, kRows>(gys, gy + queries);
  CopyTile<D, kKeys>(vs, v + kv + int64_t{begin} * D);
  CommitCopies();
  RunningRow running[2];
  float lse[2] = {}, mean[2] = {};
  float out[1][D / 8][4] = {};
  for (int step = 0; step < 2 * steps; ++step) {
    const int key = begin + step % steps * kKeys;
    WaitForCopies<0>();
    __syncthreads();  // v is there, and nobody needs k any more
    CopyTile<D, kKeys>(ks, k + kv + int64_t{key} * D);
    CommitCopies();
    float gp[1][kN][4], s[1][kN][4];
    MultiplyRows<D>(gys + warp_row * kStride<D>, vs, gp);
    WaitForCopies<0>();
    __syncthreads();  // k is there, and nobody needs v any more
    if (step + 1 < 2 * steps) {
      CopyTile<D, kKeys>(vs, v + kv + int64_t{begin + (step + 1) % steps * kKeys} * D);
      CommitCopies();
    }
    MultiplyRows<D>(qs + warp_row * kStride<D>, ks, s);
    const bool second = step >= steps;
    if (second) {
      ForEachElement<1, kN>([&](int m, int n, int e) { gp[m][n][e] -= mean[e / 2]; });
      if (cap > 0) CapScores(cap, s, gp);
    } else if (cap > 0) {
      ForEachElement<1, kN>([&](int m, int n, int e) { s[m][n][e] = cap * ScoreTanh(s[m][n][e]); });
    }
    if (key + kKeys - 1 > position || key <= position + 15 - shape.window) {
      ForEachElement<1, kN>([&](int m, int n, int e) {
        if (!shape.Sees(position + RowOf(m, e), key + ColumnOf(n, e))) s[m][n][e] = -INFINITY;
      });
    }
    if (second) {
      ForEachElement<1, kN>(
          [&](int m, int n, int e) { gp[m][n][e] *= FastExp2(s[m][n][e] - lse[e / 2]); });
      AddProduct<D>(gp, ks, out);
      continue;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      mean[h] *= running[h].Update(s[0], h);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        mean[h] = Fma(s[0][n][2 * h], gp[0][n][2 * h], mean[h]);
        mean[h] = Fma(s[0][n][2 * h + 1], gp[0][n][2 * h + 1], mean[h]);
      }
    }
    if (step + 1 < steps) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = ReduceQuad(running[h].sum, Sum());
      mean[h] = ReduceQuad(mean[h], Sum()) / sum;
      lse[h] = running[h].max + log2f(sum);
      const int t = position + RowOf(0, 2 * h);
      if (threadIdx.x % 4 == 0) {
        stats[int64_t{bh} * PaddedTokens(T) + t] =
            t < T ? make_float2(lse[h], mean[h]) : make_float2(INFINITY, 0);
      }
    }
  }

  const int64_t row = int64_t{bh / shape.heads} * T + position;
  const int64_t head = int64_t{bh % shape.heads} * shape.head_dim;
  ForEachPair(out, [&](int i, int d, float left, float right) {
    if (position + i < T && d < shape.head_dim) {
      *reinterpret_cast<float2*>(gq + (row + i) * shape.width() + head + d) =
          make_float2(left * shape.scale, right * shape.scale);
    }
  });
}

// Queries come in two buffers: one is computed with while the other is filled.
template <int D>
struct KeyTile {
  static constexpr int kQueries = D <= 128 ? 32 : 16;
  static constexpr int64_t kSharedBytes = TileBytes<D>(2 * kRows + 4 * kQueries);
  static_assert(kSharedBytes <= 99 << 10 && kRows % kQueries == 0);
};

// Of long heads the registers hold one of gk and gv: it is launched for either.
template <int D, bool kGk, bool kGv>
__global__ void __launch_bounds__(kTileThreads, 2)
    KeyGradientKernel(AttentionShape shape, float cap, float gk_factor, const BF16* q,
                      const BF16* k, const BF16* v, const BF16* gy, const float2* stats, float* gk,
                      float* gv) {
  constexpr int kQueries = KeyTile<D>::kQueries, kN = kQueries / 8;
  BF16* ks = reinterpret_cast<BF16*>(DynamicShared());
  BF16* vs = ks + kRows * kStride<D>;
  BF16* buffers = vs + kRows * kStride<D>;  // [2][q and gy][kQueries]
  const int T = shape.Tq, of_head = shape.B * shape.kv_heads(), bkv = blockIdx.x % of_head;
  const int first = static_cast<int>(blockIdx.x) / of_head * kRows;  // seen by most queries first
  const int last = first + kRows < T ? first + kRows : T;
  const Span seeing = QueriesSeeing(first, last - 1, shape.window, T);
  const int begin = seeing.begin / kQueries * kQueries;
  const int tiles = (seeing.end - begin + kQueries - 1) / kQueries;
  const int64_t keys = (int64_t{bkv} * PaddedTokens(T) + first) * D;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * 16, key = first + warp_row;
  // Step i is tile i % tiles of head i / tiles of the group.
  const auto row_of = [&](int step) {  // of stats and, times D, of q and gy
    const int64_t bh = int64_t{bkv} * shape.group + step / tiles;
    return bh * PaddedTokens(T) + begin + step % tiles * kQueries;
  };
  const auto buffer_of = [&](int step) { return buffers + step % 2 * 2 * kQueries * kStride<D>; };
  const auto copy = [&](int step) {
    BF16* buffer = buffer_of(step);
    CopyTile<D, kQueries>(buffer, q + row_of(step) * D);
    CopyTile<D, kQueries>(buffer + kQueries * kStride<D>, gy + row_of(step) * D);
    CommitCopies();
  };

  CopyTile<D, kRows>(ks, k + keys);
  if constexpr (kGk) CopyTile<D, kRows>(vs, v + keys);
  copy(0);
  float gk_out[1][kGk ? D / 8 : 1][4] = {}, gv_out[1][kGv ? D / 8 : 1][4] = {};
  const int steps = shape.group * tiles;
  for (int step = 0; step < steps; ++step) {
    WaitForCopies<0>();
    __syncthreads();  // this step's queries are there, and nobody needs those before
    if (step + 1 < steps) copy(step + 1);
    const int query = begin + step % tiles * kQueries;
    if (query + kQueries - 1 < key || query - (key + 15) >= shape.window) continue;
    const BF16 *qs = buffer_of(step), *gys = qs + kQueries * kStride<D>;
    float s[1][kN][4], gp[1][kN][4];
    MultiplyRows<D>(ks + warp_row * kStride<D>, qs, s);
    if constexpr (kGk) MultiplyRows<D>(vs + warp_row * kStride<D>, gys, gp);
    // {lse, mean} of the two queries of a lane's columns.
    float4 of_queries[kN];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      of_queries[n] = *reinterpret_cast<const float4*>(stats + row_of(step) + ColumnOf(n, 0));
    }
    if constexpr (kGk) {
      ForEachElement<1, kN>([&](int m, int n, int e) {
        gp[m][n][e] -= e % 2 == 0 ? of_queries[n].y : of_queries[n].w;
      });
      if (cap > 0) CapScores(cap, s, gp);
    } else if (cap > 0) {
      ForEachElement<1, kN>([&](int m, int n, int e) { s[m][n][e] = cap * ScoreTanh(s[m][n][e]); });
    }
    if (query < key + 15 || query + kQueries - 1 - key >= shape.window) {
      ForEachElement<1, kN>([&](int m, int n, int e) {
        if (!shape.Sees(query + ColumnOf(n, e), key + RowOf(m, e))) s[m][n][e] = -INFINITY;
      });
    }
    ForEachElement<1, kN>([&](int m, int n, int e) {
      const float lse = e % 2 == 0 ? of_queries[n].x : of_queries[n].z;
      s[m][n][e] = FastExp2(s[m][n][e] - lse);
    });
    if constexpr (kGv) AddProduct<D>(s, gys, gv_out);
    if constexpr (kGk) {
      ForEachElement<1, kN>([&](int m, int n, int e) { gp[m][n][e] *= s[m][n][e]; });
      AddProduct<D>(gp, qs, gk_out);
    }
  }

  const int64_t row = int64_t{bkv / shape.kv_heads()} * T + key;
  const int64_t head = int64_t{bkv % shape.kv_heads()} * shape.head_dim;
  const auto store = [&](float factor, float* to) {
    return [&, factor, to](int i, int d, float left, float right) {
      if (key + i < T && d < shape.head_dim) {
        *reinterpret_cast<float2*>(to + (row + i) * shape.kv_width() + head + d) =
            make_float2(left * factor, right * factor);
      }
    };
  };
  if constexpr (kGk) ForEachPair(gk_out, store(gk_factor, gk));
  if constexpr (kGv) ForEachPair(gv_out, store(1, gv));
}

}  // namespace

void AttentionBackwardBF16(Device& device, const AttentionShape& shape, const Tensor& q,
                           const Tensor& k, const Tensor& v, const Tensor& gy, const Tensor& gq,
                           const Tensor& gk, const Tensor& gv) {
  const int T = shape.Tq;
  const Tensor packed_q = PackHeads(device, shape, shape.heads, T, QueryFactor(shape), q);
  const Tensor packed_k = PackHeads(device, shape, shape.kv_heads(), T, 1, k);
  const Tensor packed_v = PackHeads(device, shape, shape.kv_heads(), T, 1, v);
  const Tensor packed_gy = PackHeads(device, shape, shape.heads, T, 1, gy);
  const Tensor stats =
      device.Scratch(DType::kF32, {int64_t{shape.B} * shape.heads, PaddedTokens(T), 2});
  // gk = scale gs^T q, and what is multiplied is q QueryFactor.
  const float gk_factor = shape.softcap > 0 ? shape.softcap : 1 / kLog2E;
  const int64_t tiles = CeilDiv(T, kRows) * shape.B;
  WithPaddedHeadDim(shape.head_dim, [&](auto padded) {
    constexpr int D = decltype(padded)::value;
    Launch(device,
           {.x = tiles * shape.heads,
            .threads = kTileThreads,
            .shared_bytes = QueryTile<D>::kSharedBytes},
           QueryGradientKernel<D>, shape, Cap(shape), Data<BF16>(packed_q), Data<BF16>(packed_k),
           Data<BF16>(packed_v), Data<BF16>(packed_gy), Data<float2>(stats), Data<float>(gq));
    const auto of_keys = [&](auto kernel) {
      Launch(device,
             {.x = tiles * shape.kv_heads(),
              .threads = kTileThreads,
              .shared_bytes = KeyTile<D>::kSharedBytes},
             kernel, shape, Cap(shape), gk_factor, Data<BF16>(packed_q), Data<BF16>(packed_k),
             Data<BF16>(packed_v), Data<BF16>(packed_gy), Data<float2>(stats), Data<float>(gk),
             Data<float>(gv));
    };
    if constexpr (D <= 128) {
      of_keys(KeyGradientKernel<D, true, true>);
    } else {
      of_keys(KeyGradientKernel<D, true, false>);
      of_keys(KeyGradientKernel<D, false, true>);
    }
  });
}

}  // namespace cvxq::cuda
