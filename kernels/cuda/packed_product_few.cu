// Two to eight vectors times a packed matrix, by products of BF16 on tensor cores.
#include "kernels/contract.h"
#include "kernels/cuda/packed_product.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// A warp's sums of a tile. A product of 16 rows and 32 lines is two of 16 lines: the first of lines
// 4 t to 4 t + 3 of the lower 16, the second of the upper.
template <int kStrips>
class BF16Tile {
 public:
  static constexpr int kVectors = kFewRows, kRows = kStripRows * kStrips, kSums = kRows * kVectors;

  // x[N, 8]
  __device__ BF16Tile(const ColumnsView& view, const LevelsView& levels, const float* x)
      : view_(view), levels_(levels), x_(x), lane_(threadIdx.x % kWarp) {}

  __device__ void Multiply(int depth, const Step& step, uint32_t* staged, uint32_t lane_tables) {
    constexpr int kQuarters = kPassLines / GroupLines(kStrips) * GroupQuarters(kStrips);
    const uint32_t* codes = step.codes + lane_;
    for (int pass = 0; pass * kQuarters < step.quarters; ++pass) {
      if (pass > 0) __syncwarp();  // all are done with what was staged
      Stage(step.fields, pass, staged);
      __syncwarp();
      const int left = step.quarters - pass * kQuarters,
                quarters = left < kQuarters ? left : kQuarters;
      const int t = lane_ % 4;
      const uint32_t* of_lane = staged + PairWord(2 * t) + lane_ / 4;
      WithDepth(depth, [&]<int kDepth>() {
        MultiplyQuarters<kDepth>(quarters, codes, of_lane, lane_tables + view_.places.of[kDepth]);
      });
      codes += quarters * depth * kWarp;
    }
  }

  template <typename Write>
  __device__ void Give(const Write& write) {
    float means[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      means[v] = WarpReduce(means_[v], Sum());
      means_[v] = 0;
    }
    float own[2] = {};  // of vectors 2 t and 2 t + 1
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (v / 2 == lane_ % 4) own[v % 2] = means[v];
    }
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        write(kStripRows * strip + lane_ / 4 + i / 2 * 8, lane_ % 4 * 2 + i % 2,
              sums_[strip][i] + own[i % 2]);
        sums_[strip][i] = 0;
      }
    }
  }

 private:
  static constexpr int kPassLines = 2 * kWarp;  // staged at once, two by a lane

  // Where x * scale of a pair of lines stands, in words of 8 vectors: so that lanes t of a product
  // find theirs in different banks.
  static constexpr int kBlockWords = 72;  // of 8 pairs
  __device__ static int PairWord(int pair) {
    return pair / 8 * kBlockWords + pair % 8 * kVectors + pair / 4 % 2 * 8;
  }
  static_assert(kPassLines / 16 * kBlockWords <= kStagedWords);

  // x * scale of the lines of a pass, as pairs. Lines that fill up have scale and mean 0.
  __device__ void Stage(const uint32_t* fields, int pass, uint32_t* staged) {
    const int pair = pass * kWarp + lane_;
    const uint32_t lines = fields[pair];
    const auto of_pair = [&](int word) {
      return reinterpret_cast<const float2*>(fields + word)[pair];
    };
    const float2 scale = of_pair(view_.fields.scale_word);
    float low[kVectors], high[kVectors];
    LoadX(lines & 0xffff, low);
    LoadX(lines >> 16, high);
    if (view_.fields.means) {
      const float2 mean = of_pair(view_.fields.mean_word);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        means_[v] = Fma(mean.y, high[v], Fma(mean.x, low[v], means_[v]));
      }
    }
    const auto pack = [&](int v) { return PackBF16(low[v] * scale.x, high[v] * scale.y); };
    auto* to = reinterpret_cast<uint4*>(staged + PairWord(lane_));
    to[0] = make_uint4(pack(0), pack(1), pack(2), pack(3));
    to[1] = make_uint4(pack(4), pack(5), pack(6), pack(7));
  }

  __device__ void LoadX(uint32_t line, float (&values)[kVectors]) const {
    const float4* from = reinterpret_cast<const float4*>(x_) + uint64_t{line} * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 four = from[half];
      values[4 * half] = four.x;
      values[4 * half + 1] = four.y;
      values[4 * half + 2] = four.z;
      values[4 * half + 3] = four.w;
    }
  }

  // `codes` are the lane's of the first quarter, `staged` its pairs.
  template <int kDepth>
  __device__ void MultiplyQuarters(int quarters, const uint32_t* codes, const uint32_t* staged,
                                   uint32_t lane_table) {
    constexpr int kBlocks = GroupLines(kStrips) / kProductLines, kQuarters = GroupQuarters(kStrips);
#pragma unroll 1
    for (; quarters > 0; quarters -= kQuarters) {
      uint32_t b[kBlocks][2][2];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int half = 0; half < 2; ++half, staged += kBlockWords) {
          b[block][half][0] = staged[0];
          b[block][half][1] = staged[kVectors];
        }
      }
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        uint32_t words[kDepth];
#pragma unroll
        for (int i = 0; i < kDepth; ++i) words[i] = codes[i * kWarp];
        codes += kDepth * kWarp;
#pragma unroll
        for (int product = 0; product < 2; ++product) {
          const int strip = kStrips == 1 ? 0 : 2 * q + product, block = kStrips == 1 ? product : 0;
          uint32_t low[4], high[4];
          DecodeProduct<kDepth>(words, product, levels_, lane_table, low, high);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            uint32_t a[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int four = 2 * half + i % 2;
              a[i] = ChooseBytes(low[four], high[four], i < 2 ? 0x5140u : 0x7362u);
            }
            MmaBF16(sums_[strip], a, b[block][half]);
          }
        }
      }
    }
  }

  const ColumnsView& view_;
  const LevelsView& levels_;
  const float* const x_;
  const int lane_;
  float sums_[kStrips][4] = {};
  float means_[kVectors] = {};
};

// y[n, M] from x[N, 8].
template <int kStrips>
__global__ void __launch_bounds__(kProductThreads, 1)
    PackedFewKernel(ColumnsView view, LevelsView levels, const float* x, int n, const float* bias,
                    float* partial, float* y) {
  BF16Tile<kStrips> tile(view, levels, x);
  MultiplyPieces<kStrips>(view, levels, partial, tile, [&](int32_t row, int v, float sum) {
    if (v < n) y[v * view.M + row] = bias == nullptr ? sum : sum + bias[row];
  });
}

// columns[N, 8] = x[n, N] transposed, zeros beyond n.
__global__ void VectorsKernel(const float* x, int n, int64_t N, float* columns) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < N * kFewRows;
       i += int64_t{gridDim.x} * blockDim.x) {
    const auto v = static_cast<int>(i % kFewRows);
    columns[i] = v < n ? x[v * N + i / kFewRows] : 0;
  }
}

}  // namespace

void MultiplyColumnsFew(Device& device, const PackedColumns& weight, const Tensor& x,
                        const Tensor& bias, const Tensor& y) {
  const auto n = static_cast<int>(x.shape[0]);
  const int64_t columns = weight.columns * kFewRows;
  const int64_t parts = weight.view.part_count * kStripRows * weight.strips * kFewRows;
  float* vectors = reinterpret_cast<float*>(
      device.Workspace((columns + parts) * static_cast<int64_t>(sizeof(float))));
  if (vectors == nullptr) return;
  Launch(device, ElementGrid(columns), VectorsKernel, Data<float>(x), n, weight.columns, vectors);
  const auto kernel = weight.strips == 4   ? PackedFewKernel<4>
                      : weight.strips == 2 ? PackedFewKernel<2>
                                           : PackedFewKernel<1>;
  Launch(device,
         {.x = weight.plan.blocks,
          .threads = weight.plan.warps * kWarp,
          .shared_bytes = weight.plan.shared_bytes,
          .early = true},
         kernel, weight.view, weight.bf16, vectors, n, Data<float>(bias), vectors + columns,
         Data<float>(y));
}

}  // namespace cvxq::cuda
