// Products with packed matrices, straight from the codes. A value is scale * table[code] + mean,
// so a row's product is
//
//   y = sum over columns j of (x[j] * scale[j]) * table[code[j]]  +  sum over j of x[j] * mean[j]
//
// Under kColumns both x * scale and the sum with the means are the same for all rows of a cluster:
// they are computed once for each tile of its rows. Under kRows scale and mean belong to a row of
// the cluster of columns, and are applied after the sum over the cluster's columns.
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/packed_weight.h"

namespace cvxq {
namespace {

using Cluster = CpuPackedWeight::Cluster;

// Strips of a cluster that share one pass over x: enough for that pass not to count, few enough
// for many threads to find work.
constexpr int64_t kTileStrips = 8;

// Where the columns of each depth of a cluster lie in the scratch of one row of x.
struct ScratchLayout {
  explicit ScratchLayout(const Cluster& cluster) {
    for (int b = kMaxDepth; b >= 1; --b) {
      begin[b] = size;
      if (cluster.lines[b] == 0) continue;
      depths |= 1u << b;
      size += cluster.lines[b] + kStripLanes;  // StripKernels::split writes beyond the end
    }
  }
  std::array<int64_t, kMaxDepth + 1> begin = {};
  int64_t size = 0;
  uint32_t depths = 0;  // bit b: there are columns of depth b
};

// y[batch, M] for strips [first, last) of a kColumns cluster; x[batch, N].
void MultiplyColumnsTile(const CpuPackedWeight& weight, int64_t c, int64_t first, int64_t last,
                         const float* x, int batch, const float* bias, float* y) {
  const Cluster& cluster = weight.clusters[c];
  const StripKernels& kernels = *weight.kernels;
  const int64_t columns = weight.columns;
  const ScratchLayout layout(cluster);
  thread_local std::vector<float> scratch;
  if (scratch.size() < static_cast<size_t>(batch * layout.size)) {
    scratch.resize(batch * layout.size);
  }

  float mean_sums[kMaxStripBatch];
  for (int t = 0; t < batch; ++t) {
    float* out[kMaxDepth + 1] = {};
    for (int b = 1; b <= kMaxDepth; ++b)
      out[b] = scratch.data() + t * layout.size + layout.begin[b];
    const auto split = weight.pairs != nullptr ? weight.pairs->split : kernels.split;
    mean_sums[t] =
        split(columns, weight.depth.data() + c * columns, weight.scale.data() + c * columns,
              weight.mean.empty() ? nullptr : weight.mean.data() + c * columns, x + t * columns,
              layout.depths, out);
  }

  int64_t strip_words = 0;
  for (int b = 1; b <= kMaxDepth; ++b)
    strip_words += weight.WordsPerLane(cluster.lines[b], b) * kStripLanes;
  const int64_t members = weight.cluster_members(c);
  for (int64_t strip = first; strip < last; ++strip) {
    const uint32_t* words = weight.words.get() + cluster.first_word + strip * strip_words;
    float sums[kMaxStripBatch * kStripLanes] = {};
    for (int b = kMaxDepth; b >= 1; --b) {
      if (cluster.lines[b] == 0) continue;
      const auto multiply = weight.InPairs(b) ? weight.pairs->multiply : kernels.multiply;
      multiply(b, words, cluster.lines[b], weight.table[b].data(), scratch.data() + layout.begin[b],
               layout.size, batch, sums);
      words += weight.WordsPerLane(cluster.lines[b], b) * kStripLanes;
    }
    const int64_t lanes = std::min<int64_t>(kStripLanes, members - strip * kStripLanes);
    const int32_t* rows = weight.members.data() + weight.cluster_begin(c) + strip * kStripLanes;
    for (int t = 0; t < batch; ++t) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const float value = sums[t * kStripLanes + lane] + mean_sums[t];
        y[t * weight.rows + rows[lane]] = bias == nullptr ? value : value + bias[rows[lane]];
      }
    }
  }
}

void MultiplyColumns(const CpuPackedWeight& weight, const float* x, int batch, const float* bias,
                     float* y, ThreadPool& pool) {
  const int64_t clusters = weight.clusters.size();
  const int64_t tiles = (StripsOf(weight.cluster_members(0)) + kTileStrips - 1) / kTileStrips;
  pool.ParallelFor(clusters * tiles, [&](int64_t i) {
    const int64_t c = i / tiles, first = i % tiles * kTileStrips;
    const int64_t last = std::min(first + kTileStrips, StripsOf(weight.cluster_members(c)));
    if (first < last) MultiplyColumnsTile(weight, c, first, last, x, batch, bias, y);
  });
}

// sums[batch, M] += the share of a kRows cluster; x[batch, N] in the order of members.
void MultiplyRowsCluster(const CpuPackedWeight& weight, int64_t c, const float* x, int batch,
                         float* sums) {
  const Cluster& cluster = weight.clusters[c];
  const int64_t members = weight.cluster_members(c), lines = weight.rows;
  x += weight.cluster_begin(c);
  float x_sums[kMaxStripBatch] = {};
  for (int t = 0; t < batch; ++t) {
    for (int64_t k = 0; k < members; ++k) x_sums[t] += x[t * weight.columns + k];
  }
  const int32_t* rows = weight.order.data() + c * lines;
  const float* scale = weight.scale.data() + c * lines;
  const float* mean = weight.mean.empty() ? nullptr : weight.mean.data() + c * lines;
  const uint32_t* words = weight.words.get() + cluster.first_word;
  for (int b = kMaxDepth; b >= 0; --b) {
    for (int64_t line = 0; line < cluster.lines[b]; line += kStripLanes) {
      const int64_t lanes = std::min<int64_t>(kStripLanes, cluster.lines[b] - line);
      float strip_sums[kMaxStripBatch * kStripLanes] = {};
      if (b > 0) {
        weight.kernels->multiply(b, words, members, weight.table[b].data(), x, weight.columns,
                                 batch, strip_sums);
        words += weight.WordsPerLane(members, b) * kStripLanes;
      }
      for (int t = 0; t < batch; ++t) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          float value = strip_sums[t * kStripLanes + lane] * scale[lane];
          if (mean != nullptr) value += mean[lane] * x_sums[t];
          sums[t * lines + rows[lane]] += value;
        }
      }
      rows += lanes;
      scale += lanes;
      if (mean != nullptr) mean += lanes;
    }
  }
}

void MultiplyRows(const CpuPackedWeight& weight, const float* x, int batch, const float* bias,
                  float* y, ThreadPool& pool) {
  // A tile is a run of clusters, at least this many columns, with sums of its own for all rows.
  constexpr int64_t kTileColumns = 256;
  constexpr int64_t kBlockRows = 1024;
  const int64_t M = weight.rows, N = weight.columns, clusters = weight.clusters.size();
  std::vector<float> sorted(batch * N);
  for (int t = 0; t < batch; ++t) {
    for (int64_t k = 0; k < N; ++k) sorted[t * N + k] = x[t * N + weight.members[k]];
  }
  const int64_t tile_clusters = (kTileColumns + weight.cluster_size - 1) / weight.cluster_size;
  const int64_t tiles = (clusters + tile_clusters - 1) / tile_clusters;
  std::vector<float> sums(tiles * batch * M);
  pool.ParallelFor(tiles, [&](int64_t tile) {
    const int64_t last = std::min(clusters, (tile + 1) * tile_clusters);
    for (int64_t c = tile * tile_clusters; c < last; ++c) {
      MultiplyRowsCluster(weight, c, sorted.data(), batch, sums.data() + tile * batch * M);
    }
  });
  pool.ParallelFor((M + kBlockRows - 1) / kBlockRows, [&](int64_t block) {
    const int64_t begin = block * kBlockRows, end = std::min(M, begin + kBlockRows);
    for (int t = 0; t < batch; ++t) {
      for (int64_t row = begin; row < end; ++row) y[t * M + row] = sums[t * M + row];
      for (int64_t tile = 1; tile < tiles; ++tile) {
        const float* from = sums.data() + (tile * batch + t) * M;
        for (int64_t row = begin; row < end; ++row) y[t * M + row] += from[row];
      }
      for (int64_t row = begin; bias != nullptr && row < end; ++row) y[t * M + row] += bias[row];
    }
  });
}

}  // namespace

void PackedProduct(const CpuPackedWeight& weight, const float* x, int64_t n, const float* bias,
                   float* y, ThreadPool& pool) {
  const auto multiply = weight.partition == Partition::kColumns ? MultiplyColumns : MultiplyRows;
  for (int64_t t = 0; t < n; t += kMaxStripBatch) {
    const int batch = static_cast<int>(std::min<int64_t>(kMaxStripBatch, n - t));
    multiply(weight, x + t * weight.columns, batch, bias, y + t * weight.rows, pool);
  }
}

}  // namespace cvxq
