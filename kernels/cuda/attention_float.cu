// Attention in float, forward and backward. Scores are made again for every sweep over a row, and
// heads longer than kDims take a block for each kDims of the result.
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_float.cuh"
#include "kernels/cuda/attention_output.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {
namespace {

using namespace attention_float;

// The queries or keys of one block.
struct Piece {
  int b = 0, head = 0;       // of q for queries, of k and v for keys
  int first = 0, count = 0;  // rows of the sequence
  int d0 = 0;                // first column of the result
};

// Blocks with most work come first: of queries the last, of keys the first.
__device__ Piece PieceOf(int B, int heads, int T, bool last_first) {
  const int tiles = (T + kTile - 1) / kTile;
  const int tile = blockIdx.x / (B * heads), index = blockIdx.x % (B * heads);
  const int first = (last_first ? tiles - 1 - tile : tile) * kTile;
  return {index / heads, index % heads, first, T - first < kTile ? T - first : kTile,
          static_cast<int>(blockIdx.y) * kDims};
}

// Tile `first` of head h of a sequence b with T tokens.
__device__ Rows TileOf(const float* data, int64_t width, int head_dim, int b, int T, int head,
                       int first) {
  const int left = T - first;
  return {data + (int64_t{b} * T + first) * width + int64_t{head} * head_dim, width,
          left < kTile ? left : kTile, head_dim};
}

// The scores of queries from `query` (at `position`) and keys from `key`: scaled and capped, -inf
// where they are not seen. `slope` is d(capped) / d(scaled), where asked for.
template <bool kSlope>
__device__ void Finish(const AttentionShape& shape, int position, int key, float (&s)[kEach][kEach],
                       float (*slope)[kEach]) {
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      float score = s[i][j] * shape.scale;
      if constexpr (kSlope) slope[i][j] = 1;
      if (shape.softcap > 0) {
        const float capped = tanhf(score / shape.softcap);
        score = shape.softcap * capped;
        if constexpr (kSlope) slope[i][j] = 1 - capped * capped;
      }
      s[i][j] = shape.Sees(position + y + kSide * i, key + x + kSide * j) ? score : -INFINITY;
    }
  }
}

// Row maxima and sums as they grow. Update makes scores exp(score - max) and returns by what the
// sums so far are to be multiplied. A row that has seen nothing yet has its scores left at 0.
struct Running {
  float max = -INFINITY, sum = 0;

  __device__ float Update(float (&s)[kEach]) {
    float largest = max;
#pragma unroll
    for (int j = 0; j < kEach; ++j) largest = Max()(s[j], largest);
    largest = ReduceRow(largest, Max());
    const float base = largest == -INFINITY ? 0 : largest;
    const float factor = expf(max - base);
    max = largest;
    float added = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) added += s[j] = expf(s[j] - base);
    sum = sum * factor + ReduceRow(added, Sum());
    return factor;
  }
};

__global__ void __launch_bounds__(kBlockThreads)
    ForwardFloatKernel(AttentionShape shape, const float* q, const float* k, const float* v,
                       AttentionOutput y) {
  __shared__ float work[kWorkFloats], tile[kTile * kTileStride];
  const Piece piece = PieceOf(shape.B, shape.heads, shape.Tq, true);
  const int position = shape.Tk - shape.Tq + piece.first, kv_head = piece.head / shape.group;
  const Rows queries =
      TileOf(q, shape.width(), shape.head_dim, piece.b, shape.Tq, piece.head, piece.first);
  const Span seen = KeysSeen(position, position + piece.count - 1, shape.window);
  Running running[kEach];
  float out[kEach][kEachDim] = {};
  for (int key = seen.begin / kTile * kTile; key < seen.end; key += kTile) {
    float s[kEach][kEach];
    Scores(queries, TileOf(k, shape.kv_width(), shape.head_dim, piece.b, shape.Tk, kv_head, key),
           work, s);
    Finish<false>(shape, position, key, s, nullptr);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float factor = running[i].Update(s[i]);
#pragma unroll
      for (int j = 0; j < kEachDim; ++j) out[i][j] *= factor;
    }
    StoreTile(s, tile);
    AddWeighted<false>(tile,
                       TileOf(v, shape.kv_width(), shape.head_dim, piece.b, shape.Tk, kv_head, key),
                       piece.d0, work, out);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEachDim; ++j) out[i][j] /= running[i].sum;
  }
  const int64_t row = int64_t{piece.b} * shape.Tq + piece.first;
  ForEachOut(out, piece.count, shape.head_dim, piece.d0, [&](int i, int d, float value) {
    y.Put((row + i) * shape.width() + int64_t{piece.head} * shape.head_dim + d, value);
  });
}

// gq, and of each query {log sum exp of its scores, sum p gp} in stats[B, heads, T]: a sweep over
// the keys for the latter, then one for gs = scale slope p (gp - sum p gp) and gq = gs k.
__global__ void __launch_bounds__(kBlockThreads)
    QueryGradientFloatKernel(AttentionShape shape, const float* q, const float* k, const float* v,
                             const float* gy, float2* stats, float* gq) {
  __shared__ float work[kWorkFloats], tile[kTile * kTileStride];
  const int T = shape.Tq, y = threadIdx.x / kSide;
  const Piece piece = PieceOf(shape.B, shape.heads, T, true);
  const int kv_head = piece.head / shape.group;
  const auto queries_of = [&](const float* data) {
    return TileOf(data, shape.width(), shape.head_dim, piece.b, T, piece.head, piece.first);
  };
  const auto keys_of = [&](const float* data, int key) {
    return TileOf(data, shape.kv_width(), shape.head_dim, piece.b, T, kv_head, key);
  };
  const Span seen = KeysSeen(piece.first, piece.first + piece.count - 1, shape.window);
  const int begin = seen.begin / kTile * kTile;
  Running running[kEach];
  float mean[kEach] = {};  // sum p gp
  for (int key = begin; key < seen.end; key += kTile) {
    float s[kEach][kEach], gp[kEach][kEach];
    Scores(queries_of(gy), keys_of(v, key), work, gp);
    Scores(queries_of(q), keys_of(k, key), work, s);
    Finish<false>(shape, piece.first, key, s, nullptr);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float factor = running[i].Update(s[i]);
      float added = 0;
#pragma unroll
      for (int j = 0; j < kEach; ++j) added += s[i][j] * gp[i][j];
      mean[i] = mean[i] * factor + ReduceRow(added, Sum());
    }
  }
  float lse[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    mean[i] /= running[i].sum;
    lse[i] = running[i].max + logf(running[i].sum);
    const int row = y + kSide * i;
    if (blockIdx.y == 0 && threadIdx.x % kSide == 0 && row < piece.count) {
      stats[(int64_t{piece.b} * shape.heads + piece.head) * T + piece.first + row] =
          make_float2(lse[i], mean[i]);
    }
  }
  float out[kEach][kEachDim] = {};
  for (int key = begin; key < seen.end; key += kTile) {
    float s[kEach][kEach], gp[kEach][kEach], slope[kEach][kEach];
    Scores(queries_of(gy), keys_of(v, key), work, gp);
    Scores(queries_of(q), keys_of(k, key), work, s);
    Finish<true>(shape, piece.first, key, s, slope);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        s[i][j] = shape.scale * slope[i][j] * expf(s[i][j] - lse[i]) * (gp[i][j] - mean[i]);
      }
    }
    StoreTile(s, tile);
    AddWeighted<false>(tile, keys_of(k, key), piece.d0, work, out);
  }
  const int64_t row = int64_t{piece.b} * T + piece.first;
  ForEachOut(out, piece.count, shape.head_dim, piece.d0, [&](int i, int d, float value) {
    gq[(row + i) * shape.width() + int64_t{piece.head} * shape.head_dim + d] = value;
  });
}

// gk = gs^T q and gv = p^T gy of a tile of keys, over the heads of its group and their queries.
__global__ void __launch_bounds__(kBlockThreads)
    KeyGradientFloatKernel(AttentionShape shape, const float* q, const float* k, const float* v,
                           const float* gy, const float2* stats, float* gk, float* gv) {
  __shared__ float work[kWorkFloats], p_tile[kTile * kTileStride], gs_tile[kTile * kTileStride];
  const int T = shape.Tq, y = threadIdx.x / kSide;
  const Piece piece = PieceOf(shape.B, shape.kv_heads(), T, false);
  const auto keys_of = [&](const float* data) {
    return TileOf(data, shape.kv_width(), shape.head_dim, piece.b, T, piece.head, piece.first);
  };
  const Span seeing = QueriesSeeing(piece.first, piece.first + piece.count - 1, shape.window, T);
  float gk_out[kEach][kEachDim] = {}, gv_out[kEach][kEachDim] = {};
  for (int h = 0; h < shape.group; ++h) {
    const int head = piece.head * shape.group + h;
    for (int query = seeing.begin / kTile * kTile; query < seeing.end; query += kTile) {
      const Rows queries = TileOf(q, shape.width(), shape.head_dim, piece.b, T, head, query);
      const Rows gradients = TileOf(gy, shape.width(), shape.head_dim, piece.b, T, head, query);
      float s[kEach][kEach], gp[kEach][kEach], slope[kEach][kEach];
      Scores(gradients, keys_of(v), work, gp);
      Scores(queries, keys_of(k), work, s);
      Finish<true>(shape, query, piece.first, s, slope);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int row = query + y + kSide * i;
        const float2 of_row = row < T ? stats[(int64_t{piece.b} * shape.heads + head) * T + row]
                                      : make_float2(INFINITY, 0);  // exp(-inf) = 0
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          s[i][j] = expf(s[i][j] - of_row.x);
          gp[i][j] = shape.scale * slope[i][j] * s[i][j] * (gp[i][j] - of_row.y);
        }
      }
      StoreTile(s, p_tile);
      StoreTile(gp, gs_tile);
      AddWeighted<true>(p_tile, gradients, piece.d0, work, gv_out);
      AddWeighted<true>(gs_tile, queries, piece.d0, work, gk_out);
    }
  }
  const int64_t row = int64_t{piece.b} * T + piece.first;
  const auto at = [&](int i, int d) {
    return (row + i) * shape.kv_width() + int64_t{piece.head} * shape.head_dim + d;
  };
  ForEachOut(gk_out, piece.count, shape.head_dim, piece.d0,
             [&](int i, int d, float value) { gk[at(i, d)] = value; });
  ForEachOut(gv_out, piece.count, shape.head_dim, piece.d0,
             [&](int i, int d, float value) { gv[at(i, d)] = value; });
}

Grid GridOf(int B, int heads, int T, int head_dim) {
  return {.x = CeilDiv(T, kTile) * B * heads, .y = CeilDiv(head_dim, kDims)};
}

}  // namespace

void AttentionFloat(Device& device, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& y) {
  Launch(device, GridOf(shape.B, shape.heads, shape.Tq, shape.head_dim), ForwardFloatKernel, shape,
         Data<float>(q), Data<float>(k), Data<float>(v), AttentionOutput::Of(y));
}

void AttentionBackwardFloat(Device& device, const AttentionShape& shape, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& gy, const Tensor& gq,
                            const Tensor& gk, const Tensor& gv) {
  const Tensor stats = device.Scratch(DType::kF32, {shape.B, shape.heads, shape.Tq, 2});
  Launch(device, GridOf(shape.B, shape.heads, shape.Tq, shape.head_dim), QueryGradientFloatKernel,
         shape, Data<float>(q), Data<float>(k), Data<float>(v), Data<float>(gy),
         Data<float2>(stats), Data<float>(gq));
  Launch(device, GridOf(shape.B, shape.kv_heads(), shape.Tq, shape.head_dim),
         KeyGradientFloatKernel, shape, Data<float>(q), Data<float>(k), Data<float>(v),
         Data<float>(gy), Data<float2>(stats), Data<float>(gk), Data<float>(gv));
}

}  // namespace cvxq::cuda
