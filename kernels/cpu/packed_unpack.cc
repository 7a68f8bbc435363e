// Decoding of packed matrices in memory, to the same bits as Decode (packed_matrix.h).
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/packed_weight.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

using Cluster = CpuPackedWeight::Cluster;

void Put(float value, float* to) { *to = value; }
void Put(float value, uint16_t* to) { *to = FloatToBF16(value); }

auto WriteOf(const StripKernels& kernels, float*) { return kernels.write_float; }
auto WriteOf(const StripKernels& kernels, uint16_t*) { return kernels.write_bf16; }

// A buffer of this thread, at least this large, of any contents.
float* Scratch(int64_t size) {
  thread_local std::vector<float> scratch;
  if (scratch.size() < static_cast<size_t>(size)) scratch.resize(size);
  return scratch.data();
}

// The rows of a kColumns cluster, strip by strip: a strip's table values by depth, then put in
// order of columns, scaled and shifted.
template <typename T>
void UnpackColumns(const CpuPackedWeight& weight, int64_t c, T* w) {
  const Cluster& cluster = weight.clusters[c];
  const int64_t columns = weight.columns, members = weight.cluster_members(c);
  const uint8_t* depth = weight.depth.data() + c * columns;
  const float* mean = weight.mean.empty() ? nullptr : weight.mean.data() + c * columns;

  // position[j]: where column j stands among the strip's values. Depth 0 has one column after all
  // others, which gives mean[j] (as -0 + mean) or 0, since scale is 1 there.
  std::vector<int32_t> position(columns);
  int32_t next[kMaxDepth + 1], begin = 0;
  for (int b = kMaxDepth; b >= 0; --b) {
    next[b] = begin;
    begin += static_cast<int32_t>(cluster.lines[b]);
  }
  const int32_t zero = next[0];
  for (int64_t j = 0; j < columns; ++j) position[j] = depth[j] == 0 ? zero : next[depth[j]]++;
  float* values = Scratch((zero + 1) * kStripLanes);
  std::fill_n(values + zero * kStripLanes, kStripLanes, mean == nullptr ? 0.0f : -0.0f);

  const uint32_t* words = weight.words.get() + cluster.first_word;
  for (int64_t first = 0; first < members; first += kStripLanes) {
    float* to = values;
    for (int b = kMaxDepth; b >= 1; --b) {
      const int64_t lines = cluster.lines[b];
      if (lines == 0) continue;
      const auto look_up = weight.InPairs(b) ? weight.pairs->look_up : weight.kernels->look_up;
      look_up(b, words, lines, weight.table[b].data(), to);
      words += weight.WordsPerLane(lines, b) * kStripLanes;
      to += lines * kStripLanes;
    }
    const int lanes = static_cast<int>(std::min<int64_t>(kStripLanes, members - first));
    T* rows[kStripLanes];
    for (int lane = 0; lane < lanes; ++lane) {
      rows[lane] = w + weight.members[weight.cluster_begin(c) + first + lane] * columns;
    }
    WriteOf(*weight.kernels, w)(values, position.data(), weight.scale.data() + c * columns, mean,
                                columns, lanes, rows);
  }
}

// The columns of a kRows cluster. Their places in a row of w are scattered: plain loops.
template <typename T>
void UnpackRows(const CpuPackedWeight& weight, int64_t c, T* w) {
  const Cluster& cluster = weight.clusters[c];
  const int64_t members = weight.cluster_members(c), lines = weight.rows;
  const int32_t* column = weight.members.data() + weight.cluster_begin(c);
  const uint32_t* words = weight.words.get() + cluster.first_word;
  float* values = Scratch(members * kStripLanes);
  int64_t group = c * lines;  // of the strip's first row
  for (int b = kMaxDepth; b >= 0; --b) {
    for (int64_t line = 0; line < cluster.lines[b]; line += kStripLanes) {
      const int64_t lanes = std::min<int64_t>(kStripLanes, cluster.lines[b] - line);
      if (b > 0) {
        weight.kernels->look_up(b, words, members, weight.table[b].data(), values);
        words += weight.WordsPerLane(members, b) * kStripLanes;
      }
      for (int64_t lane = 0; lane < lanes; ++lane, ++group) {
        T* row = w + weight.order[group] * weight.columns;
        const float scale = weight.scale[group];
        const float mean = weight.mean.empty() ? 0 : weight.mean[group];
        if (b == 0) {
          for (int64_t k = 0; k < members; ++k) Put(mean, row + column[k]);
        } else if (weight.mean.empty()) {
          for (int64_t k = 0; k < members; ++k) {
            Put(values[k * kStripLanes + lane] * scale, row + column[k]);
          }
        } else {
          for (int64_t k = 0; k < members; ++k) {
            Put(values[k * kStripLanes + lane] * scale + mean, row + column[k]);
          }
        }
      }
    }
  }
}

template <typename T>
void Unpack(const CpuPackedWeight& weight, T* w, ThreadPool& pool) {
  const auto unpack = weight.partition == Partition::kColumns ? UnpackColumns<T> : UnpackRows<T>;
  pool.ParallelFor(weight.clusters.size(), [&](int64_t c) { unpack(weight, c, w); });
}

}  // namespace

void UnpackToFloat(const CpuPackedWeight& weight, float* w, ThreadPool& pool) {
  Unpack(weight, w, pool);
}

void UnpackToBF16(const CpuPackedWeight& weight, uint16_t* w, ThreadPool& pool) {
  Unpack(weight, w, pool);
}

}  // namespace cvxq
