// One vector times a packed matrix, by products of integers on tensor cores.
//
// Levels are integers of 16 bits, x * scale one of 31 bits with an exponent that the warp keeps. A
// factor of n bytes is the sum of its bytes (with signs) times powers of 256; tensor cores multiply
// bytes and add exactly. Of a product's 8 columns, column c sums what counts 256^c: the low bytes
// of the levels times byte c of x, the high bytes times byte c - 1. So one vector fills five
// columns, and a sum is as good as one in float; it has the same bits in whatever order.
#include "kernels/contract.h"
#include "kernels/cuda/packed_product.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// With |x * scale| < 2^(exponent - 127) integers are below 2^30, and the sums of 2^16 products of
// bytes below 2^31.
constexpr uint32_t kIntegerBits = 30;
constexpr uint32_t kHeadroom = 5;  // of the exponent above that of the value that raises it

// A warp's sums of a tile.
template <int kStrips>
class IntegerTile {
 public:
  static constexpr int kVectors = 1, kRows = kStripRows * kStrips, kSums = kRows;

  __device__ IntegerTile(const ColumnsView& view, const LevelsView& levels, const float* x)
      : view_(view), levels_(levels), x_(x), lane_(threadIdx.x % kWarp) {}

  __device__ void Multiply(int depth, const Step& step, uint32_t* staged, uint32_t lane_tables) {
    Stage(step.fields, levels_.unit[depth], depth, staged);
    __syncwarp();
    // Column g of the factors: byte g of x with low bytes, byte g - 1 with high ones, else 0.
    const int g = lane_ / 4, t = lane_ % 4;
    const uint32_t* with_low = staged + (g < 4 ? g + 1 : 0) * kRowWords + 2 * t;
    const uint32_t* with_high = staged + (g < 5 ? g : 0) * kRowWords + 2 * t;
    WithDepth(depth, [&]<int kDepth>() {
      MultiplyQuarters<kDepth>(step.quarters, step.codes + lane_, with_low, with_high,
                               lane_tables + view_.places.of[kDepth]);
    });
  }

  template <typename Write>
  __device__ void Give(const Write& write) {
    Carry();
    const float means = WarpReduce(means_, Sum());
    means_ = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (lane_ % 4 < kStrips) {
        write(kStripRows * (lane_ % 4) + 8 * half + lane_ / 4, 0, carried_[half] + means);
      }
      carried_[half] = 0;
    }
  }

 private:
  // Staged: a row of zeros, then one for each byte of x, lowest first; in a row four lines to a
  // word, the two that a lane needs of 32 lines side by side. So long that the rows' banks differ.
  static constexpr int kRowWords = kStepLines / 4 + 4;
  static_assert(5 * kRowWords <= kStagedWords);

  __device__ void Stage(const uint32_t* fields, float unit, int depth, uint32_t* staged) {
    const uint2 lines = reinterpret_cast<const uint2*>(fields)[lane_];
    const float x[4] = {x_[lines.x & 0xffff], x_[lines.x >> 16], x_[lines.y & 0xffff],
                        x_[lines.y >> 16]};
    if (view_.fields.means) {
      const float4 mean = reinterpret_cast<const float4*>(fields + view_.fields.mean_word)[lane_];
      means_ = Fma(mean.x, x[0], Fma(mean.y, x[1], Fma(mean.z, x[2], Fma(mean.w, x[3], means_))));
    }
    if (depth == 0) return;
    const float4 scale = reinterpret_cast<const float4*>(fields + view_.fields.scale_word)[lane_];
    const float values[4] = {x[0] * unit * scale.x, x[1] * unit * scale.y, x[2] * unit * scale.z,
                             x[3] * unit * scale.w};
    uint32_t most = 0;  // as bits, of which those of infinities and NaN are the largest
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = __float_as_uint(values[i]) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
    most = WarpMax(most);
    if (most >> 23 >= exponent_) Raise(most >> 23);

    uint32_t bytes[4];  // of each line, lowest first
    const float factor = __uint_as_float((254 + kIntegerBits - exponent_) << 23);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Each byte but the highest is to have a sign: 128 more, so that it carries, and back.
      constexpr uint32_t kMiddles = 0x80808080u;
      bytes[i] = (static_cast<uint32_t>(RoundToInt(values[i] * factor)) + kMiddles) ^ kMiddles;
    }
    const uint32_t low01 = ChooseBytes(bytes[0], bytes[1], 0x5140u),
                   high01 = ChooseBytes(bytes[0], bytes[1], 0x7362u),
                   low23 = ChooseBytes(bytes[2], bytes[3], 0x5140u),
                   high23 = ChooseBytes(bytes[2], bytes[3], 0x7362u);
    uint32_t* to = staged + lane_ / 8 * 8 + lane_ % 4 * 2 + lane_ / 4 % 2;
    to[0] = 0;
    to[kRowWords] = ChooseBytes(low01, low23, 0x5410u);
    to[2 * kRowWords] = ChooseBytes(low01, low23, 0x7632u);
    to[3 * kRowWords] = ChooseBytes(high01, high23, 0x5410u);
    to[4 * kRowWords] = ChooseBytes(high01, high23, 0x7632u);
  }

  // `codes` are the lane's of the first quarter.
  template <int kDepth>
  __device__ void MultiplyQuarters(int quarters, const uint32_t* codes, const uint32_t* with_low,
                                   const uint32_t* with_high, uint32_t lane_table) {
    constexpr int kBlocks = GroupLines(kStrips) / kProductLines, kQuarters = GroupQuarters(kStrips);
#pragma unroll 1
    for (; quarters > 0; quarters -= kQuarters) {
      uint32_t x_low[kBlocks][2], x_high[kBlocks][2];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const uint2 low = *reinterpret_cast<const uint2*>(with_low + 8 * block);
        const uint2 high = *reinterpret_cast<const uint2*>(with_high + 8 * block);
        x_low[block][0] = low.x;
        x_low[block][1] = low.y;
        x_high[block][0] = high.x;
        x_high[block][1] = high.y;
      }
      with_low += 8 * kBlocks;
      with_high += 8 * kBlocks;
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
          MmaInt8(sums_[strip], low, x_low[block]);
          MmaInt8(sums_[strip], high, x_high[block]);
        }
      }
    }
  }

  // To numbers that are larger, beginning anew with the sums.
  __device__ void Raise(uint32_t exponent) {
    constexpr uint32_t kInfinity = 255;
    Carry();
    if (exponent == kInfinity) {  // or NaN: and so are the sums
      carried_[0] = carried_[1] = __uint_as_float(0x7fc00000u);
      return;
    }
    exponent_ = exponent + kHeadroom;
  }

  // The sums as floats, of rows lane / 4 and 8 below, added to what is carried.
  __device__ void Carry() {
    const float unit = __uint_as_float((exponent_ - kIntegerBits) << 23);
    const int t = lane_ % 4 < 2 ? lane_ % 4 : 2;  // columns 6 and 7 are 0
    const float power = __uint_as_float((127 + 16 * t) << 23) * unit;
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int(&sums)[4] = sums_[strip];
        float sum =
            Fma(256, static_cast<float>(sums[2 * half + 1]), static_cast<float>(sums[2 * half])) *
            power;
        sums[2 * half] = sums[2 * half + 1] = 0;
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane_ % 4 == strip) carried_[half] += sum;
      }
    }
  }

  const ColumnsView& view_;
  const LevelsView& levels_;
  const float* const x_;
  const int lane_;
  uint32_t exponent_ = kIntegerBits;  // below 2^-97 all is 0
  int sums_[kStrips][4] = {};
  float carried_[2] = {};  // of strip lane % 4: sums of earlier exponents
  float means_ = 0;
};

// y[M] from x[N].
template <int kStrips>
__global__ void __launch_bounds__(kProductThreads, 1)
    PackedOneKernel(ColumnsView view, LevelsView levels, const float* x, const float* bias,
                    float* partial, float* y) {
  IntegerTile<kStrips> tile(view, levels, x);
  MultiplyPieces<kStrips>(view, levels, partial, tile, [&](int32_t row, int, float sum) {
    y[row] = bias == nullptr ? sum : sum + bias[row];
  });
}

}  // namespace

void MultiplyColumnsOne(Device& device, const PackedColumns& weight, const Tensor& x,
                        const Tensor& bias, const Tensor& y) {
  const int64_t rows = kStripRows * weight.strips;
  float* partial = reinterpret_cast<float*>(
      device.Workspace(weight.view.part_count * rows * static_cast<int64_t>(sizeof(float))));
  const auto kernel = weight.strips == 4   ? PackedOneKernel<4>
                      : weight.strips == 2 ? PackedOneKernel<2>
                                           : PackedOneKernel<1>;
  Launch(device,
         {.x = weight.plan.blocks,
          .threads = weight.plan.warps * kWarp,
          .shared_bytes = weight.plan.shared_bytes,
          .early = true},
         kernel, weight.view, weight.integers, Data<float>(x), Data<float>(bias), partial,
         Data<float>(y));
}

}  // namespace cvxq::cuda
