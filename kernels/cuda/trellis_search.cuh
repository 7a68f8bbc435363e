// The search of quant/trellis_search.h on a warp: one column of a tile, rows from the last place
// back, a survivor for each of 8 states.
//
// Lane 8 q + s works state s; the four copies q share out the feedback that survivors owe to the
// rows still to come: copy q has the rows whose place is q modulo 4, in registers that move with
// the survivors. A row takes one exchange between lanes (metric and scaled target of both parents),
// the branches of both, and a choice: a chain counted at 110 to 150 cycles (an H200 takes 400).
// What is owed to later rows moves in its shadow.
//
// The trellis (quant/trellis.h) as it is needed here: into state s lead the states 2 (s mod 4)
// and 2 (s mod 4) + 1, the first with integers of the parity of the number of ones of s, the second
// with the others; both are on grid 1 where s mod 4 >= 2.
#ifndef CVXQ_KERNELS_CUDA_TRELLIS_SEARCH_CUH_
#define CVXQ_KERNELS_CUDA_TRELLIS_SEARCH_CUH_

#include <algorithm>
#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/feedback_tile.cuh"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kTrellisLanes = 8, kTrellisCopies = 4;

// Of one row of a column, in shared memory.
struct TrellisPlace {
  float step, weight, original;
  int price;  // where the prices of its class begin
};
struct TrellisTarget {
  float target, inverse;  // 1 / step
  float lower;            // L_O of the row after it
  float unused;
};
struct TrellisStep {  // of a row and the state after it
  float code;         // that led there, of a step
  float next;         // the target of the row after it in work
};

static_assert(sizeof(TrellisPlace) + sizeof(TrellisTarget) +
                  kTrellisLanes * (sizeof(TrellisStep) + 1) + 4 ==
              4 * kTrellisPlaceFloats);

struct TrellisArguments {
  const float *row_step, *row_weight, *column_step, *column_weight;
  const int32_t *row_class, *column_class;
  const float* price;  // [classes, 2, kTrellisMagnitudes]
  int classes;
  const float* row_curvature;
  uint8_t* state;  // [stride]: of each column after the row tile before; where rows feed each other
  float* squares;  // [row tiles, stride]
};

// kFeeds: rows feed each other, 128 at most in a tile; else 256.
template <bool kFeeds>
struct TrellisRule : TrellisArguments {
  struct Shared {
    TrellisPlace* place;
    TrellisTarget* target;
    TrellisStep (*step)[kTrellisLanes];
    uint8_t (*path)[kTrellisLanes];  // states, by the state that they lead to
    uint8_t* second;                 // of each row a bit for each state: whether it was reached
                                     // from its second parent
    float *price, *feed;

    __device__ Shared(float* floats, int rows, int classes) {
      const int places = (rows + 3) / 4 * 4;
      place = reinterpret_cast<TrellisPlace*>(floats);
      target = reinterpret_cast<TrellisTarget*>(place + places);
      step = reinterpret_cast<TrellisStep(*)[kTrellisLanes]>(target + places);
      path = reinterpret_cast<uint8_t(*)[kTrellisLanes]>(step + places);
      second = reinterpret_cast<uint8_t*>(path + places);
      price = floats + kTrellisPlaceFloats * places;
      feed = price + (classes * 2 * kTrellisPrices + 3) / 4 * 4;
    }
  };

  __device__ static int FeedAt(int r, int i) {
    const int part = r / 32, back = (r - 1) / 4 - i / 4;
    return 512 * part * (part + 1) + r % 32 * 32 * (part + 1) + (back / 4 * 4 + i % 4) * 4 +
           back % 4;
  }

  __device__ void Start(const Tile& tile, float* floats) const {
    const Shared shared(floats, tile.all.rows, classes);
    constexpr int kOf = kTrellisMagnitudes, kAll = kTrellisPrices;
    for (int i = threadIdx.x; i < classes * 2 * kAll; i += blockDim.x) {
      const int magnitude = i % kAll - 2;
      shared.price[i] = magnitude < 0 ? __uint_as_float(0x7f800000u)  // infinity
                                      : price[i / kAll * kOf + std::min(magnitude, kOf - 1)];
    }
    if constexpr (kFeeds) {
      for (int i = threadIdx.x; i < TrellisFeedFloats(tile.all.rows); i += blockDim.x) {
        shared.feed[i] = 0;
      }
      __syncthreads();
      for (int i = threadIdx.x; i < tile.rows * tile.rows; i += blockDim.x) {
        const int r = i / tile.rows, earlier = i % tile.rows;
        if (earlier >= r) continue;
        const float l = tile.Feed(r, earlier);
        shared.feed[FeedAt(r, earlier)] = l;
        if (earlier == r - 1) shared.target[earlier].lower = l;
      }
    }
  }

  __device__ void Prepare(const Tile& tile, float* floats, int r, float target,
                          float original) const {
    const Shared shared(floats, tile.all.rows, classes);
    const int32_t row = tile.Row(r), column = tile.Column();
    const float step = row_step[row] * column_step[column];
    const int of = std::min(std::max(row_class[row] + column_class[column], 0), classes - 1);
    shared.place[r] = {step, row_weight[row] * column_weight[column], original,
                       of * 2 * kTrellisPrices};
    shared.target[r].target = target;
    shared.target[r].inverse = 1 / step;
  }

  // Of one lane as it goes from row to row.
  struct Lane {
    int first, copy;  // the first parent's state, this lane's copy
    float grid, odd_first, odd_second;
    const float *price_first, *price_second;  // of magnitude 0 or 1
    float metric, x;                          // x: target / step
    float owed[kFeeds ? 32 : 1];  // to rows 4 (j - i) + copy, j the block of the next row
  };

  // The best integer of one parity from a parent whose target is x steps: its cost and its code.
  __device__ static float Branch(float x, float grid, float odd, float weight, const float* price,
                                 float& code) {
    constexpr float kMost = 2 * 32000 - 4;
    constexpr uint32_t kZero = 0x4b000000u, kBeyond = 33;  // the bits of 2^23
    const float a = fminf(fabsf(x), kMost);
    // Integers 2 n + odd have codes 4 n + 2 odd - grid, or 0: the nearest, and the next smaller.
    const float shifted = AddDown((a + grid) * 0.25f + (0.5f - 0.5f * odd), 0x1p23f);
    const float n = shifted - 0x1p23f;
    const float offset = 2 * odd - grid;
    const float near = fmaxf(4 * n + offset, 0.0f), less = fmaxf(4 * n + (offset - 4), 0.0f);
    const int index =
        2 * static_cast<int>(std::min(__float_as_uint(shifted), kZero + kBeyond) - kZero);
    const float error = a - near, error_less = a - less;
    const float cost = weight * error * error + price[index];
    const float cost_less = weight * error_less * error_less + price[index - 2];
    const float magnitude = cost_less < cost ? less : near;
    code = x < 0 ? -magnitude : magnitude;
    return cost_less < cost ? cost_less : cost;
  }

  // One row. `lower`: what it owes to the blocks of rows before it, for this lane's copy.
  template <int kBlocks>
  __device__ static void Row(const Shared& shared, int r, const float4* lower, Lane& lane) {
    const TrellisPlace place = shared.place[r];
    const TrellisTarget next = shared.target[r > 0 ? r - 1 : 0];
    const float metric_first = __shfl_sync(kAllLanes, lane.metric, lane.first);
    const float metric_second = __shfl_sync(kAllLanes, lane.metric, lane.first + 1);
    const float x_first = __shfl_sync(kAllLanes, lane.x, lane.first);
    const float x_second = __shfl_sync(kAllLanes, lane.x, lane.first + 1);
    float code_first, code_second;
    const float to_first = metric_first + Branch(x_first, lane.grid, lane.odd_first, place.weight,
                                                 lane.price_first + place.price, code_first);
    const float to_second =
        metric_second + Branch(x_second, lane.grid, lane.odd_second, place.weight,
                               lane.price_second + place.price, code_second);
    const bool second = to_second < to_first;
    lane.metric = second ? to_second : to_first;
    const float code = second ? code_second : code_first;
    float target = next.target;
    if constexpr (kFeeds) {
      // Both choices as far as they go before the choice is known.
      const int of = kTrellisLanes * (((r + 3) & 3)) + lane.first;
      const float owed_first = __shfl_sync(kAllLanes, lane.owed[0], of);
      const float owed_second = __shfl_sync(kAllLanes, lane.owed[0], of + 1);
      const float error_first = code_first * place.step - place.original;
      const float error_second = code_second * place.step - place.original;
      const float target_first = target - (owed_first + next.lower * error_first);
      const float target_second = target - (owed_second + next.lower * error_second);
      target = second ? target_second : target_first;
      const float error = second ? error_second : error_first;
      const int from = kTrellisLanes * lane.copy + lane.first + (second ? 1 : 0);
#pragma unroll
      for (int i = 0; i < kBlocks; i += 4) {
        const float4 l = lower[i];
        lane.owed[i] = __shfl_sync(kAllLanes, lane.owed[i], from) + l.x * error;
        lane.owed[i + 1] = __shfl_sync(kAllLanes, lane.owed[i + 1], from) + l.y * error;
        lane.owed[i + 2] = __shfl_sync(kAllLanes, lane.owed[i + 2], from) + l.z * error;
        lane.owed[i + 3] = __shfl_sync(kAllLanes, lane.owed[i + 3], from) + l.w * error;
      }
    }
    lane.x = target * next.inverse;
    const unsigned seconds = __ballot_sync(kAllLanes, second);
    if (threadIdx.x < kTrellisLanes) {
      shared.step[r][threadIdx.x] = TrellisStep{code, target};
      shared.second[r] = static_cast<uint8_t>(seconds);
    }
  }

  // Rows [begin, end) of one part of a tile from the last back; kBlocks blocks of four rows may be
  // owed something.
  template <int kBlocks>
  __device__ static void Rows(const Shared& shared, int begin, int end, Lane& lane) {
    constexpr int kPart = kBlocks / 8 - 1;
    const float4* const feed =
        reinterpret_cast<const float4*>(shared.feed) + 128 * kPart * (kPart + 1) + lane.copy;
    int r = end - 1;
    while (r >= begin) {
      if constexpr (kFeeds) {
        if ((r & 3) == 0) {  // the next row is of the block before
#pragma unroll
          for (int i = 0; i + 1 < kBlocks; ++i) lane.owed[i] = lane.owed[i + 1];
          lane.owed[kBlocks - 1] = 0;
        }
      }
      const int last = std::max(begin, ((r - 1) & ~3) + 1);
#pragma unroll 1
      for (; r >= last; --r) {
        Row<kBlocks>(shared, r, feed + (r - begin) * kBlocks, lane);
      }
    }
    // Metrics stay small, and so exact.
    float least = lane.metric;
    for (int lanes = kTrellisLanes / 2; lanes > 0; lanes /= 2) {
      least = fminf(least, __shfl_xor_sync(kAllLanes, least, lanes));
    }
    lane.metric = fminf(lane.metric - least, 1e30f);
  }

  // The least metric's state, the first of equals.
  __device__ static int Least(float metric, int state) {
    for (int lanes = kTrellisLanes / 2; lanes > 0; lanes /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, metric, lanes);
      const int other_state = __shfl_xor_sync(kAllLanes, state, lanes);
      if (other < metric || (other == metric && other_state < state)) {
        metric = other;
        state = other_state;
      }
    }
    return state;
  }

  __device__ static int Parent(int state, unsigned seconds) {
    return (2 * state & 6) | static_cast<int>(seconds >> state & 1);
  }

  template <typename Emit>
  __device__ void Round(const Tile& tile, float* floats, const Emit& emit) const {
    const Shared shared(floats, tile.all.rows, classes);
    const int thread = threadIdx.x, s = thread % kTrellisLanes, rows = tile.rows;
    uint8_t* const kept = kFeeds ? &state[tile.c0 + tile.column] : nullptr;
    Lane lane = {};
    lane.first = 2 * (s % 4);
    lane.copy = thread / kTrellisLanes;
    lane.grid = s % 4 >= 2 ? 1 : 0;
    const int odd = __popc(s) % 2;
    lane.odd_first = static_cast<float>(odd);
    lane.odd_second = static_cast<float>(1 - odd);
    const float* price = shared.price + (s % 4 >= 2 ? kTrellisPrices : 0) + 2;
    lane.price_first = price + odd;
    lane.price_second = price + 1 - odd;
    lane.metric = s == (kFeeds ? *kept : 0) ? 0 : 1e30f;
    const float last_target = shared.target[rows - 1].target;
    lane.x = last_target * shared.target[rows - 1].inverse;
    if constexpr (kFeeds) {
      if (rows > 96) Rows<32>(shared, 96, rows, lane);
      if (rows > 64) Rows<24>(shared, 64, std::min(rows, 96), lane);
      if (rows > 32) Rows<16>(shared, 32, std::min(rows, 64), lane);
      Rows<8>(shared, 0, std::min(rows, 32), lane);
    } else {
      for (int begin = (rows - 1) / 32 * 32; begin >= 0; begin -= 32) {
        Rows<0>(shared, begin, std::min(rows, begin + 32), lane);
      }
    }
    const int end = Least(lane.metric, s);
    __syncwarp();
    // Back along the path: each copy follows a quarter of the rows from all states that it may be
    // entered with; then it is known which one that is.
    const int quarter = (rows + kTrellisCopies - 1) / kTrellisCopies;
    int at = s;
    for (int r = lane.copy * quarter; r < std::min(rows, (lane.copy + 1) * quarter); ++r) {
      shared.path[r][s] = static_cast<uint8_t>(at);
      at = Parent(at, shared.second[r]);
    }
    int enter[kTrellisCopies] = {end};
    for (int q = 1; q < kTrellisCopies; ++q) {
      enter[q] = __shfl_sync(kAllLanes, at, (q - 1) * kTrellisLanes + enter[q - 1]);
    }
    if (kFeeds && thread == 0) *kept = static_cast<uint8_t>(end);
    __syncwarp();
    float sum = 0;
    for (int r = thread; r < rows; r += kWarp) {
      const int q = r / quarter;
      const int of = q == 0 ? enter[0] : q == 1 ? enter[1] : q == 2 ? enter[2] : enter[3];
      const int after = shared.path[r][of], from = Parent(after, shared.second[r]);
      const float code = shared.step[r][after].code;
      const float target = r + 1 == rows ? last_target : shared.step[r + 1][from].next;
      const float rounded = code * shared.place[r].step;
      // |code| is 2 |k| - grid.
      const int magnitude = (static_cast<int>(fabsf(code)) + (from >= 4 ? 1 : 0)) / 2;
      const float error = rounded - target;
      sum += row_curvature[tile.Row(r)] * error * error;
      emit(r, target, rounded, code < 0 ? -magnitude : magnitude);
    }
    sum = WarpReduce(sum, Sum());
    if (thread == 0) squares[tile.row_tile * tile.all.stride + tile.c0 + tile.column] = sum;
  }
};

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_TRELLIS_SEARCH_CUH_
