// Rules that round weight by weight, and the tiles of them.
//
// Levels(row, column) of W gives what rounds one weight, an At:
//   float Round(t, code)      the value and its code
// Levels that are fitted to a column of a tile give the same for all of its rows: Fit.
#ifndef CVXQ_KERNELS_CUDA_SCALAR_ROUNDING_CUH_
#define CVXQ_KERNELS_CUDA_SCALAR_ROUNDING_CUH_

#include <algorithm>
#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/feedback_tile.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {

// DeviceGrid.
struct GridLevels {
  static constexpr bool kFits = false;
  struct At {
    float scale, inverse, zero, most;  // inverse 0: nothing but 0
    bool half;

    __device__ float Round(float t, int& code) const {
      if (half) {
        const uint16_t bits = FloatToF16Bits(fminf(fmaxf(t, -65504.0f), 65504.0f));
        code = bits;
        return F16BitsToFloat(bits);
      }
      // Within these ends adding 1.5 * 2^23 leaves no room for a fraction: to nearest even.
      const float steps = fminf(fmaxf(MulRounded(t, inverse), -256.0f), 256.0f);
      const float nearest = AddRounded(AddRounded(steps, 0x1.8p23f), -0x1.8p23f);
      const float level = fminf(fmaxf(nearest + zero, 0.0f), most);
      code = static_cast<int>(level);
      return (level - zero) * scale;
    }
  };
  const float* scale;
  const uint8_t* zero;
  const uint8_t* kept;  // nullptr: none
  int64_t group, groups;
  float most;

  __device__ At operator()(int64_t row, int64_t column) const {
    const int64_t g = row * groups + column / group;
    const float s = scale[g];
    return {s, s == 0 ? 0 : 1 / s, static_cast<float>(zero[g]), most,
            kept != nullptr && kept[column] != 0};
  }
};

// DeviceTable.
struct TableLevels {
  static constexpr bool kFits = false;
  struct At {
    float scale, inverse;
    int half;  // of the levels; 0: depth 0
    const float* table;
    const float* boundary;

    __device__ float Round(float t, int& code) const {
      code = 0;
      if (half == 0) return 0;
      const float unit = t * inverse;
      for (int step = half; step > 0; step /= 2) {
        if (unit >= boundary[code + step - 1]) code += step;
      }
      return scale * table[code];
    }
  };
  const uint8_t* depth;
  const float* scale;
  const int32_t* cluster;
  const float *table, *boundary;
  int64_t rows, levels;

  __device__ At operator()(int64_t row, int64_t column) const {
    const int64_t g = cluster[column] * rows + row;
    const int d = depth[g];
    const float s = scale[g];
    return {s, 1 / s, d == 0 ? 0 : 1 << (d - 1), table + d * levels, boundary + d * levels};
  }
};

// DeviceFittedTable. A warp fits a column; a lane has every 32nd row.
struct FittedLevels {
  static constexpr bool kFits = true;
  using At = TableLevels::At;
  uint8_t* depth;
  int32_t* place;
  const int32_t* cluster;  // of each row tile: its line in `depth` and `place`
  const float* scales;
  int first, steps, count, reach;
  const float *table, *boundary;
  int64_t levels;

  template <int kMost>
  __device__ At Fit(const Tile& tile, int lane, const float (&t)[kMost]) const {
    const int64_t group = cluster[tile.row_tile] * tile.all.width + tile.Column();
    float largest = 0;  // which keeps squares from over- and underflow
    for (int q = 0; q < kMost; ++q) {
      if (q * kWarp + lane < tile.rows) largest = fmaxf(largest, fabsf(t[q]));
    }
    largest = WarpReduce(largest, Max());
    const int d = largest > 0 ? depth[group] : 0;
    if (d == 0) {
      if (lane == 0) depth[group] = 0;
      return {0, 0, 0, table, boundary};
    }
    largest = fmaxf(largest, 0x1p-125f);
    const float inverse = 1 / largest;
    float squares = 0;
    for (int q = 0; q < kMost; ++q) {
      const float part = q * kWarp + lane < tile.rows ? t[q] * inverse : 0;
      squares += part * part;
    }
    squares = WarpReduce(squares, Sum());
    // log2 of the root mean square.
    const float size =
        log2f(largest) + 0.5f * (log2f(squares) - log2f(static_cast<float>(tile.rows)));
    const int centre = static_cast<int>(rintf(size * static_cast<float>(steps))) - first;
    At best = {};
    double least = INFINITY;
    int at = std::min(std::max(centre, 0), count - 1);
    for (int i = std::max(0, centre - reach); i <= std::min(count - 1, centre + reach); ++i) {
      const float scale = scales[i];
      const At tried = {scale, scales[count + i], 1 << (d - 1), table + d * levels,
                        boundary + d * levels};
      float sum = 0;
      for (int q = 0; q < kMost; ++q) {
        if (q * kWarp + lane >= tile.rows) continue;
        int code;
        const float error = (tried.Round(t[q], code) - t[q]) * tried.inverse;
        sum += error * error;
      }
      const double error = static_cast<double>(WarpReduce(sum, Sum())) * scale * scale;
      if (error < least) {
        least = error;
        best = tried;
        at = i;
      }
    }
    if (lane == 0) place[group] = at;
    return best;
  }
};

// Rows feed each other: a lane has every 32nd row. Row by row its lane's rounding error goes to all
// others by a shuffle, so a row takes the latency of a shuffle and of one rounding, some 75 cycles.
template <typename Levels>
struct ScalarRule {
  static constexpr int kLanes = kWarp, kMost = 4;  // rows of a lane
  Levels levels;

  static int64_t SharedFloats(int rows) { return 2 * rows; }  // targets and originals

  __device__ void Start(const Tile&, float*) const {}
  __device__ void Prepare(const Tile& tile, float* shared, int r, float target,
                          float original) const {
    shared[r] = target;
    shared[tile.all.rows + r] = original;
  }

  template <typename Emit>
  __device__ void Round(const Tile& tile, const float* shared, const Emit& emit) const {
    const int lane = threadIdx.x % kLanes;
    float t[kMost], original[kMost];
    typename Levels::At at[kMost];
    for (int q = 0; q < kMost; ++q) {
      const int i = q * kLanes + lane;
      if (i >= tile.rows) continue;
      t[q] = shared[i];
      original[q] = shared[tile.all.rows + i];
      if constexpr (!Levels::kFits) at[q] = levels(tile.Row(i), tile.Column());
    }
    if constexpr (Levels::kFits) {
      const auto fitted = levels.Fit(tile, lane, t);
      for (int q = 0; q < kMost; ++q) at[q] = fitted;
    }
    if (tile.all.feed != nullptr) {
      Feed<3>(tile, lane, t, original, at);
      Feed<2>(tile, lane, t, original, at);
      Feed<1>(tile, lane, t, original, at);
      Feed<0>(tile, lane, t, original, at);
    }
    for (int q = 0; q < kMost; ++q) {
      const int i = q * kLanes + lane;
      if (i >= tile.rows) continue;
      int code;
      const float rounded = at[q].Round(t[q], code);
      emit(i, t[q], rounded, code);
    }
  }

 private:
  // Rows [32 kPart, 32 (kPart + 1)).
  template <int kPart>
  __device__ static void Feed(const Tile& tile, int lane, float (&t)[kMost],
                              const float (&original)[kMost],
                              const typename Levels::At (&at)[kMost]) {
    constexpr int kFirst = kPart * kLanes;
    const int last = std::min(+kLanes, tile.rows - kFirst) - 1;
    if (last < 0) return;
    int own[kPart + 1];  // this lane's rows; any row where there is none
    float l[kPart + 1];  // L_O of the row that is next, for those
    for (int q = 0; q <= kPart; ++q) {
      own[q] = q * kLanes + lane < tile.rows ? q * kLanes + lane : 0;
      l[q] = tile.Feed(kFirst + last, own[q]);
    }
    for (int r = last; r >= 0; --r) {
      float error = 0;
      if (kFirst + lane < tile.rows) {
        int code;
        error = at[kPart].Round(t[kPart], code) - original[kPart];
      }
      error = __shfl_sync(0xffffffffu, error, r);
      float now[kPart + 1];
      for (int q = 0; q <= kPart; ++q) {
        now[q] = l[q];
        if (r > 0) l[q] = tile.Feed(kFirst + r - 1, own[q]);
      }
      for (int q = 0; q < kPart; ++q) t[q] -= now[q] * error;
      if (lane < r) t[kPart] -= now[kPart] * error;
    }
  }
};

// Rows are independent: a thread has a row and works it alone, without barriers. Block b works row
// tile first_row + b; as many threads as a tile has rows.
template <typename Levels>
__global__ void FreeTileKernel(const Tiles tiles, const Levels levels) {
  float* const targets = reinterpret_cast<float*>(DynamicShared());
  const int line = TileLine(tiles.rows);
  const Tile tile(tiles, tiles.first_row + blockIdx.x, tiles.first_column);
  ClearEmptyPlaces(tile);
  LoadTargets(tile, targets);
  __syncthreads();
  const int r = threadIdx.x;
  if (r < tile.rows) {
    const int64_t row = tile.Row(r);
    const float* original = tiles.original + (tile.r0 + r) * tiles.stride + tile.c0;
    float* const mine = targets + r;
    for (int c = tile.columns - 1; c >= 0; --c) {
      const int32_t column = tiles.column[tile.c0 + c];
      int code;
      const float error = levels(row, column).Round(mine[c * line], code) - original[c];
      tiles.codes[row * tiles.width + column] = static_cast<uint16_t>(code);
      if (tiles.lower != nullptr) {
        const float* lower = tiles.lower + (tile.c0 + c) * tiles.stride + tile.c0;
#pragma unroll 8
        for (int j = 0; j < c; ++j) mine[j * line] -= lower[j] * error;
      }
      mine[c * line] = -error;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tile.rows * tile.columns; i += blockDim.x) {
    const int row = i / tile.columns, c = i % tile.columns;
    tiles.negative[(int64_t{blockIdx.x} * tiles.rows + row) * tiles.columns + c] =
        targets[c * line + row];
  }
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_SCALAR_ROUNDING_CUH_
