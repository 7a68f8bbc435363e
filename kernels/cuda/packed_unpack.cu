// Decoding of packed matrices with partition kColumns, to the same bits as Decode.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_columns.h"
#include "kernels/cuda/packed_runs.cuh"

namespace cvxq::cuda {
namespace {

constexpr int kWindow = 256;  // columns of a block

// The first position of a run whose line is not before `line`.
__device__ int32_t FirstAtOrBehind(const ColumnsView& view, const Run& run, int64_t line) {
  int32_t low = 0, high = run.lines;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (LineAt(view, run.position + middle) < line) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Tiles from first_tile on, as they are stored, or (in_order) each row at its place of w[M, N].
// Blocks (tile, window): lines of all depths that lie in the window are decoded to shared memory,
// where they stand side by side, and whole rows of it are written.
template <typename T>
__global__ __launch_bounds__(kBlockThreads) void UnpackColumnsKernel(ColumnsView view, int strips,
                                                                     int64_t first_tile,
                                                                     bool in_order, T* w) {
  const int tile_rows = kStripRows * strips;
  T* window = reinterpret_cast<T*>(DynamicShared());  // [tile_rows, kWindow]
  __shared__ float tables[kTableValues];
  const int64_t tile = first_tile + blockIdx.x, begin = int64_t{blockIdx.y} * kWindow;
  const int64_t end = begin + kWindow < view.N ? begin + kWindow : view.N;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x; i < kTableValues; i += kBlockThreads) tables[i] = view.tables[i];
  for (int i = threadIdx.x; i < tile_rows * kWindow; i += kBlockThreads) {
    window[i] = FromFloat<T>(0.0f);
  }
  __syncthreads();

  RunWalk walk(view, tile);
  for (int b = kMaxDepth; b >= 0; --b, walk.Next(b + 1, strips)) {
    const Run& run = walk.run();
    if (run.lines == 0) continue;
    const int32_t first = FirstAtOrBehind(view, run, begin), last = FirstAtOrBehind(view, run, end);
    // Eight neighbouring lines of a warp at a time: four lanes have two each, of eight rows.
    for (int32_t base = first / 8 * 8 + warp * 8; base < last; base += 8 * kPackedWarps) {
      for (int e = 0; e < 2; ++e) {
        const int32_t position = base + lane % 4 * 2 + e;
        if (position < first || position >= last) continue;
        const int64_t at = run.position + position;
        const auto column = static_cast<int>(LineAt(view, at) - begin);
        const float scale = ScaleAt(view, at);
        const float mean = MeanAt(view, at);
        for (int row = lane / 4; row < tile_rows; row += 8) {
          float value = mean;
          if (b > 0) {
            value =
                MulRounded(scale, tables[FirstOfTable(b) + CodeAt(run, position, row, b, strips)]);
            if (view.fields.means) value = AddRounded(value, mean);
          }
          window[row * kWindow + column] = FromFloat<T>(value);
        }
      }
    }
  }
  __syncthreads();
  for (int row = warp; row < tile_rows; row += kPackedWarps) {
    const int64_t to =
        in_order ? view.rows[tile * tile_rows + row] : int64_t{blockIdx.x} * tile_rows + row;
    if (to < 0) continue;
    for (int64_t j = begin + lane; j < end; j += kWarp) {
      w[to * view.N + j] = window[row * kWindow + (j - begin)];
    }
  }
}

void UnpackTiles(Device& device, const PackedColumns& weight, int64_t first_tile, int64_t tiles,
                 bool in_order, const Tensor& w) {
  WithComputeType(w.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(device,
           {.x = tiles,
            .y = CeilDiv(weight.columns, kWindow),
            .shared_bytes = static_cast<int64_t>(weight.row_step * kWindow * sizeof(T))},
           UnpackColumnsKernel<T>, weight.view, weight.strips, first_tile, in_order, Data<T>(w));
  });
}

}  // namespace

void PackedColumns::UnpackStored(Device& device, int64_t begin, int64_t end,
                                 const Tensor& w) const {
  UnpackTiles(device, *this, begin / row_step, (end - begin) / row_step, false, w);
}

void PackedColumns::Unpack(Device& device, const Tensor& w) const {
  UnpackTiles(device, *this, 0, view.tiles, true, w);
}

}  // namespace cvxq::cuda
