// Products with packed matrices in float, straight from the codes: one vector at a time, with the
// exact values of the tables.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_columns.h"
#include "kernels/cuda/packed_runs.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// y[n, M] from x[n, N]. Blocks (tile, vector). Each warp takes every eighth step of a run, a lane
// the lines and rows whose codes it has: rows lane / 4 and 8 below of each strip, two neighbouring
// lines of each 8.
template <int kStrips>
__global__ __launch_bounds__(kBlockThreads) void PackedColumnsFloatKernel(ColumnsView view,
                                                                          const float* all_x,
                                                                          const float* bias,
                                                                          float* all_y) {
  constexpr int kTileRows = kStripRows * kStrips;
  __shared__ float tables[kTableValues];
  __shared__ float rows[kPackedWarps][kTileRows];
  const int64_t tile = blockIdx.x;
  const float* x = all_x + blockIdx.y * view.N;
  float* y = all_y + blockIdx.y * view.M;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x; i < kTableValues; i += kBlockThreads) tables[i] = view.tables[i];
  __syncthreads();

  float sums[kStrips][2] = {};
  float means = 0;
  RunWalk walk(view, tile);
  for (int b = kMaxDepth; b >= 0; --b, walk.Next(b + 1, kStrips)) {
    const Run& run = walk.run();
    for (int64_t step = warp; step * kStepLines < run.lines; step += kPackedWarps) {
      for (int i = 0; i < kStepLines / 4; ++i) {
        const int64_t position = step * kStepLines + i / 2 * 8 + lane % 4 * 2 + i % 2;
        if (position >= run.lines) continue;
        const float value = x[LineAt(view, run.position + position)];
        if (view.fields.means) means = Fma(MeanAt(view, run.position + position), value, means);
        if (b == 0) continue;
        const float scaled = value * ScaleAt(view, run.position + position);
        for (int s = 0; s < kStrips; ++s) {
          for (int half = 0; half < 2; ++half) {
            const int row = kStripRows * s + 8 * half + lane / 4;
            const uint32_t code = CodeAt(run, position, row, b, kStrips);
            sums[s][half] = Fma(tables[FirstOfTable(b) + code], scaled, sums[s][half]);
          }
        }
      }
    }
  }
  for (int s = 0; s < kStrips; ++s) {
    for (int half = 0; half < 2; ++half) {
      float sum = sums[s][half] + means;
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (lane % 4 == 0) rows[warp][kStripRows * s + 8 * half + lane / 4] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kTileRows) return;
  const int32_t row = view.rows[tile * kTileRows + threadIdx.x];
  if (row < 0) return;
  float sum = 0;
  for (int w = 0; w < kPackedWarps; ++w) sum += rows[w][threadIdx.x];
  y[row] = bias == nullptr ? sum : sum + bias[row];
}

}  // namespace

void MultiplyColumnsFloat(Device& device, const PackedColumns& weight, const Tensor& x,
                          const Tensor& bias, const Tensor& y) {
  const auto kernel = weight.strips == 4   ? PackedColumnsFloatKernel<4>
                      : weight.strips == 2 ? PackedColumnsFloatKernel<2>
                                           : PackedColumnsFloatKernel<1>;
  Launch(device, {.x = weight.view.tiles, .y = x.shape[0]}, kernel, weight.view, Data<float>(x),
         Data<float>(bias), Data<float>(y));
}

}  // namespace cvxq::cuda
