// Products with packed matrices, straight from the codes, by tensor cores.
//
// A block multiplies a tile, or its share of the units of one. Each warp takes every eighth unit:
// it loads the codes of its next one, b vectors of 16 bytes a lane, while it decodes this one. Two
// instructions bring the codes of two neighbouring lines to an address, one looks both values up in
// shared memory, and four such pairs are what a lane gives to a product of 16 rows, 16 lines and 8
// vectors. A warp needs no other until all have summed up.
#include "kernels/contract.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_columns.h"
#include "kernels/cuda/packed_runs.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

constexpr int kProducts = kStepLines / kStripRows;  // of a strip and a step
constexpr float kMaxBF16 = 3.3895314e38f;

// The tables in shared memory, as BF16: entry e for lane l at places.of[depth] + 128 e + 4 l.
__device__ void FillTables(const ColumnsView& view, unsigned char* shared) {
  for (int b = 1; b <= kMaxDepth; ++b) {
    if (view.places.of[b] < 0) continue;
    const float* table = view.tables + FirstOfTable(b);
    auto* entries = reinterpret_cast<uint4*>(shared + view.places.of[b]);
    for (int i = threadIdx.x; i < TableBytes(b) / 16; i += kBlockThreads) {
      const int codes = i / 8;
      // Finite, so that lines that fill up add zeros.
      const float low = fminf(fmaxf(table[codes & ((1 << b) - 1)], -kMaxBF16), kMaxBF16);
      const float high =
          fminf(fmaxf(table[codes >> (b <= kMaxPairDepth ? b : 0)], -kMaxBF16), kMaxBF16);
      const uint32_t word = PackBF16(low, high);
      entries[i] = make_uint4(word, word, word, word);
    }
  }
}

// A lane's codes of a unit, by quarter.
template <int kDepth>
struct UnitCodes {
  uint32_t words[kUnitQuarters][kDepth];
};

template <int kDepth>
__device__ void LoadUnit(const Run& run, int unit, int quarters, int lane,
                         UnitCodes<kDepth>& codes) {
  if (unit < quarters / kUnitQuarters) {
    const uint4* from =
        reinterpret_cast<const uint4*>(run.words) + int64_t{unit} * (kDepth * kWarp) + lane;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const uint4 word = LoadStreaming(from + i * kWarp);
      codes.words[0][i] = word.x;
      codes.words[1][i] = word.y;
      codes.words[2][i] = word.z;
      codes.words[3][i] = word.w;
    }
  } else {
#pragma unroll
    for (int q = 0; q < kUnitQuarters; ++q) {
      const int quarter = kUnitQuarters * unit + q;
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        codes.words[q][i] =
            quarter < quarters ? run.words[(int64_t{quarter} * kDepth + i) * kWarp + lane] : 0;
      }
    }
  }
}

// The tables begin at an address that is a multiple of the largest, so that the bits of a code are
// or-ed to that of their table.
__device__ inline unsigned char* AlignTables(const ColumnsView& view, unsigned char* shared) {
  return shared + (0u - SharedAddress(shared)) % view.places.alignment;
}

// The `bits` bits at `at` of a lane's words, times 128: an entry's distance from the table's begin.
__device__ inline uint32_t EntryAt(const uint32_t* words, int at, int bits) {
  constexpr int kUp = 7;
  const int word = at / 32, shift = at % 32 - kUp;
  const uint32_t mask = ((1u << bits) - 1) << kUp;
  if (at % 32 + bits > 32) return ShiftPair(words[word], words[word + 1], shift) & mask;
  return (shift >= 0 ? words[word] >> shift : words[word] << -shift) & mask;
}

// Two neighbouring lines' values of the codes at `at`; `lane_table` is the address of the lane's
// copy of the table.
template <int kDepth>
__device__ uint32_t LookUp(const uint32_t* words, int at, uint32_t lane_table) {
  const auto entry = [&](int from, int bits) {
    return LoadShared(EntryAt(words, from, bits) | lane_table);
  };
  if constexpr (kDepth <= kMaxPairDepth) {
    return entry(at, 2 * kDepth);
  } else {
    return ChooseBytes(entry(at, kDepth), entry(at + kDepth, kDepth), 0x5410);
  }
}

// What a lane needs first to make its part of x of one step, two neighbouring lines.
struct StepLines {
  uint32_t lines = 0;  // both, where they are of 16 bits
  float2 scale = {};
};

// A warp's state while it multiplies units.
template <int kStrips, int kVectors>
struct Warp {
  static constexpr int kSteps = UnitLines(kStrips) / kStepLines;  // of a unit

  const ColumnsView& view;
  const float* x;             // kVectors 1: [N], else [N, 8]
  uint32_t tables;            // their address
  uint32_t* staged;           // kStepLines / 2 * kVectors words of the warp's own
  int first_unit, last_unit;  // the warp's share of the tile, every kPackedWarps-th
  int lane;
  float sums[kStrips][4] = {};
  float mean_sums[kVectors] = {};

  __device__ StepLines LoadLines(const Run& run, int step) const {
    if (step * kStepLines >= run.lines) return {};
    const int64_t pair = (run.position + step * kStepLines) / 2 + lane;
    StepLines lines;
    if (!view.wide) lines.lines = static_cast<const uint32_t*>(view.line)[pair];
    lines.scale = reinterpret_cast<const float2*>(view.scale)[pair];
    return lines;
  }

  // x of the lane's two lines, 0 beyond the run; adds the means' part of the sums.
  __device__ void LoadX(const Run& run, int step, const StepLines& lines,
                        float (&values)[kVectors][2]) {
    const int position = step * kStepLines + 2 * lane;
    const int64_t pair = (run.position + position) / 2;
    int2 line = {static_cast<int>(lines.lines & 0xffff), static_cast<int>(lines.lines >> 16)};
    if (view.wide && position < run.lines) line = static_cast<const int2*>(view.line)[pair];
    LoadX(line.x, position < run.lines, 0, values);
    LoadX(line.y, position + 1 < run.lines, 1, values);
    if (view.mean == nullptr || position >= run.lines) return;
    const float2 mean = reinterpret_cast<const float2*>(view.mean)[pair];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      mean_sums[v] = Fma(mean.y, values[v][1], Fma(mean.x, values[v][0], mean_sums[v]));
    }
  }
  __device__ void LoadX(int line, bool filled, int e, float (&values)[kVectors][2]) const {
    if constexpr (kVectors == 1) {
      values[0][e] = filled ? x[line] : 0;
    } else {
      const float4* from = reinterpret_cast<const float4*>(x) + int64_t{line} * 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 four = filled ? from[half] : make_float4(0, 0, 0, 0);
        values[4 * half][e] = four.x;
        values[4 * half + 1][e] = four.y;
        values[4 * half + 2][e] = four.z;
        values[4 * half + 3][e] = four.w;
      }
    }
  }

  // x * scale of a step as the lanes' parts of its four products. A pair of lines is that of lane
  // 8 * product + 4 * half + t. With one vector all columns of the product are that one.
  __device__ void ShareX(const StepLines& lines, const float (&values)[kVectors][2],
                         uint32_t (&b)[kProducts][2]) {
    __syncwarp();
    if constexpr (kVectors == 1) {
      // Where lane t finds its eight pairs side by side.
      const int place = lane % 4 * 8 + lane / 8 * 2 + lane / 4 % 2;
      staged[place] = PackBF16(values[0][0] * lines.scale.x, values[0][1] * lines.scale.y);
      __syncwarp();
      const auto* from = reinterpret_cast<const uint4*>(staged) + lane % 4 * 2;
      const uint4 low = from[0], high = from[1];
      b[0][0] = low.x;
      b[0][1] = low.y;
      b[1][0] = low.z;
      b[1][1] = low.w;
      b[2][0] = high.x;
      b[2][1] = high.y;
      b[3][0] = high.z;
      b[3][1] = high.w;
    } else {
      auto* to = reinterpret_cast<uint4*>(staged) + lane * 2;
      const auto pack = [&](int v) {
        return PackBF16(values[v][0] * lines.scale.x, values[v][1] * lines.scale.y);
      };
      to[0] = make_uint4(pack(0), pack(1), pack(2), pack(3));
      to[1] = make_uint4(pack(4), pack(5), pack(6), pack(7));
      __syncwarp();
      const int g = lane / 4, t = lane % 4;
#pragma unroll
      for (int p = 0; p < kProducts; ++p) {
        b[p][0] = staged[(8 * p + t) * kVectors + g];
        b[p][1] = staged[(8 * p + 4 + t) * kVectors + g];
      }
    }
  }

  // The lines of depth 0 have nothing but means.
  __device__ void AddMeans(const Run& run, int run_unit) {
    const int end = Last(run_unit, run);
    for (int unit = First(run_unit); unit < end; unit += kPackedWarps) {
      for (int step = unit * kSteps; step < (unit + 1) * kSteps; ++step) {
        float values[kVectors][2];
        LoadX(run, step, LoadLines(run, step), values);
      }
    }
  }

  template <int kDepth>
  __device__ void Multiply(const Run& run, int run_unit) {
    // Codes of deeper lines are as many bytes without being loaded ahead.
    constexpr bool kAhead = kDepth <= (kVectors == 1 ? kMaxPairDepth : 3);
    const uint32_t lane_table = tables + view.places.of[kDepth] + 4 * lane;
    const int quarters = RunQuarters(run.lines, kStrips), end = Last(run_unit, run);
    int unit = First(run_unit);
    UnitCodes<kDepth> codes, next;
    StepLines lines[kSteps], next_lines[kSteps];
    const auto load = [&] {
      if (unit >= end) return;
      LoadUnit<kDepth>(run, unit, quarters, lane, next);
#pragma unroll
      for (int s = 0; s < kSteps; ++s) next_lines[s] = LoadLines(run, unit * kSteps + s);
    };
    if (kAhead) load();
    while (unit < end) {
      if (!kAhead) load();
      codes = next;
      const int first_step = unit * kSteps;
      float values[kSteps][kVectors][2];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        lines[s] = next_lines[s];
        if constexpr (kVectors == 1) LoadX(run, first_step + s, lines[s], values[s]);
      }
      unit += kPackedWarps;
      if (kAhead) load();
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        if ((first_step + s) * kStepLines >= run.lines) break;
        if constexpr (kVectors > 1) LoadX(run, first_step + s, lines[s], values[s]);
        uint32_t b[kProducts][2];
        ShareX(lines[s], values[s], b);
#pragma unroll
        for (int j = 0; j < kStrips; ++j) {
          const uint32_t* words = codes.words[s * kStrips + j];
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            uint32_t a[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
              a[r] = LookUp<kDepth>(words, (8 * m + 2 * r) * kDepth, lane_table);
            }
            MmaBF16(sums[m % kStrips], a, b[j * (4 / kStrips) + m / kStrips]);
          }
        }
      }
    }
  }

 private:
  // The warp's first unit in a run whose first unit is run_unit of the tile, and the end.
  __device__ int First(int run_unit) const {
    const int behind = run_unit - first_unit;
    return behind <= 0 ? -behind : (kPackedWarps - behind % kPackedWarps) % kPackedWarps;
  }
  __device__ int Last(int run_unit, const Run& run) const {
    const int units = RunUnits(run.lines, kStrips), end = last_unit - run_unit;
    return end < units ? end : units;
  }
};

// The warps' sums, in a block's shared memory: of the tile's rows, and of the means.
template <int kStrips, int kVectors>
struct Sums {
  float rows[kPackedWarps][kStripRows * kStrips][kVectors];
  float means[kPackedWarps][kVectors];
};

// y[n, M] from x. Blocks (split, tile): partial sums [splits, tiles, rows, kVectors] where there
// are several splits; the block that is last to finish a tile adds them in order.
template <int kStrips, int kVectors>
__global__ __launch_bounds__(kBlockThreads, 2) void PackedColumnsKernel(ColumnsView view,
                                                                        const float* x, int n,
                                                                        const float* bias,
                                                                        float* partial, float* y) {
  constexpr int kTileRows = kStripRows * kStrips;
  __shared__ uint4 staged[kPackedWarps][kStepLines / 8 * kVectors];
  __shared__ bool is_last;
  unsigned char* shared = DynamicShared();
  const int64_t tile = blockIdx.x, split = blockIdx.y;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  unsigned char* tables = AlignTables(view, shared);
  FillTables(view, tables);
  __syncthreads();

  const LineCounts& counts = view.counts[view.tile_cluster[tile]];
  int units = 0;
  for (int b = 0; b <= kMaxDepth; ++b) units += RunUnits(counts.lines[b], kStrips);
  const auto cut = [&](int64_t at) { return static_cast<int>(units * at / view.splits); };
  Warp<kStrips, kVectors> state{.view = view,
                                .x = x,
                                .tables = SharedAddress(tables),
                                .staged = reinterpret_cast<uint32_t*>(staged[warp]),
                                .first_unit = cut(split) + warp,
                                .last_unit = cut(split + 1),
                                .lane = lane};
  RunWalk walk(view, tile);
  int run_unit = 0;
  const auto multiply = [&]<int kDepth>() {
    const Run run = walk.run();
    if (run.lines > 0) state.template Multiply<kDepth>(run, run_unit);
    run_unit += RunUnits(run.lines, kStrips);
    walk.Next(kDepth, kStrips);
  };
  multiply.template operator()<8>();
  multiply.template operator()<7>();
  multiply.template operator()<6>();
  multiply.template operator()<5>();
  multiply.template operator()<4>();
  multiply.template operator()<3>();
  multiply.template operator()<2>();
  multiply.template operator()<1>();
  state.AddMeans(walk.run(), run_unit);

  __syncthreads();  // nobody looks up any more
  auto& all = *reinterpret_cast<Sums<kStrips, kVectors>*>(shared);
  for (int v = 0; v < kVectors; ++v) {
    const float sum = WarpReduce(state.mean_sums[v], Sum());
    if (lane == 0) all.means[warp][v] = sum;
  }
  for (int strip = 0; strip < kStrips; ++strip) {
    for (int i = 0; i < 4; ++i) {
      const int row = kStripRows * strip + lane / 4 + i / 2 * 8, v = lane % 4 * 2 + i % 2;
      if (v < kVectors) all.rows[warp][row][v] = state.sums[strip][i];
    }
  }
  __syncthreads();
  const auto write = [&](int row, int v, float value) {
    const int32_t to = view.rows[tile * kTileRows + row];
    if (to < 0 || v >= n) return;
    y[v * view.M + to] = bias == nullptr ? value : value + bias[to];
  };
  const auto part = [&](int64_t of, int i) {
    return partial + (of * view.tiles + tile) * (kTileRows * kVectors) + i;
  };
  for (int i = threadIdx.x; i < kTileRows * kVectors; i += kBlockThreads) {
    const int row = i / kVectors, v = i % kVectors;
    float rows = 0, means = 0;
    for (int w = 0; w < kPackedWarps; ++w) {
      rows += all.rows[w][row][v];
      means += all.means[w][v];
    }
    if (view.splits == 1) {
      write(row, v, rows + means);
    } else {
      *part(split, i) = rows + means;
    }
  }
  if (view.splits == 1) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = TakeTicket(&view.arrived[tile]) == static_cast<uint32_t>(view.splits) - 1;
    if (is_last) view.arrived[tile] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  for (int i = threadIdx.x; i < kTileRows * kVectors; i += kBlockThreads) {
    float sum = 0;
    for (int64_t s = 0; s < view.splits; ++s) sum += LoadFromOthers(part(s, i));
    write(i / kVectors, i % kVectors, sum);
  }
}

// columns[N, 8] = x[n, N] transposed, zeros beyond n.
__global__ void VectorsKernel(const float* x, int n, int64_t N, float* columns) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < N * kFewRows;
       i += int64_t{gridDim.x} * blockDim.x) {
    const auto v = static_cast<int>(i % kFewRows);
    columns[i] = v < n ? x[v * N + i / kFewRows] : 0;
  }
}

template <int kStrips, int kVectors>
void LaunchColumns(Device& device, const ColumnsView& view, const float* x, int n,
                   const float* bias, float* y) {
  const int64_t sums = sizeof(Sums<kStrips, kVectors>);
  const int64_t tables = view.places.bytes + view.places.alignment;
  Tensor partial;
  if (view.splits > 1) {
    partial =
        device.Scratch(DType::kF32, {view.splits * view.tiles * kStripRows * kStrips * kVectors});
    if (device.failed()) return;
  }
  Launch(device, {.x = view.tiles, .y = view.splits, .shared_bytes = tables > sums ? tables : sums},
         PackedColumnsKernel<kStrips, kVectors>, view, x, n, bias, Data<float>(partial), y);
}

}  // namespace

void MultiplyColumnsBF16(Device& device, const PackedColumns& weight, const Tensor& x,
                         const Tensor& bias, const Tensor& y) {
  const auto n = static_cast<int>(x.shape[0]);
  const float* from = Data<float>(x);
  Tensor vectors;
  if (n > 1) {
    vectors = device.Scratch(DType::kF32, {weight.columns, kFewRows});
    if (device.failed()) return;
    Launch(device, ElementGrid(weight.columns * kFewRows), VectorsKernel, from, n, weight.columns,
           Data<float>(vectors));
    from = Data<float>(vectors);
  }
  const auto launch = [&](auto kernel) {
    kernel(device, weight.view, from, n, Data<float>(bias), Data<float>(y));
  };
  switch (weight.strips) {
    case 4:
      return launch(n == 1 ? LaunchColumns<4, 1> : LaunchColumns<4, kFewRows>);
    case 2:
      return launch(n == 1 ? LaunchColumns<2, 1> : LaunchColumns<2, kFewRows>);
    default:
      Require(weight.strips == 1, "PackedLinear: strips");
      return launch(n == 1 ? LaunchColumns<1, 1> : LaunchColumns<1, kFewRows>);
  }
}

}  // namespace cvxq::cuda
