#include "quant/trellis_search.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr int kLanes = kTrellisStates;
constexpr int kLargestInteger = 32000;  // k fits 16 bits

// One value for each state, in one vector register where the CPU has them.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t LaneIndex __attribute__((vector_size(kLanes * sizeof(int32_t))));

// For each state and parity of k: the best k and its metric. All loops run over the states.
struct Branches {
  float metric[2][kLanes];
  int32_t k[2][kLanes];
};

// The branches out of all states. x: target / step. grid: of each state, as a float.
__attribute__((always_inline)) inline void Branch(const float* x, const float* grid, float weight,
                                                  const float* price, Branches& out) {
  constexpr float kLast = kPricedMagnitudes - 1;
  for (int parity = 0; parity < 2; ++parity) {
    const float odd = static_cast<float>(parity);
    for (int s = 0; s < kLanes; ++s) {
      // Magnitudes m of this parity have codes 2m - grid (0 for m = 0): the nearest, and the next
      // smaller one, which may be cheaper.
      const float a = std::min(std::fabs(x[s]), 2.0f * kLargestInteger - 4);
      const float near =
          std::max(2 * std::floor((a + grid[s]) * 0.25f - 0.5f * odd + 0.5f) + odd, odd);
      const float less = std::max(near - 2, odd);
      const float error = a - (near > 0 ? 2 * near - grid[s] : 0.0f);
      const float error_less = a - (less > 0 ? 2 * less - grid[s] : 0.0f);
      const float table = grid[s] * kPricedMagnitudes;
      const float cost =
          weight * error * error + price[static_cast<int>(std::min(near, kLast) + table)];
      const float cost_less =
          weight * error_less * error_less + price[static_cast<int>(std::min(less, kLast) + table)];
      const float m = cost_less < cost ? less : near;
      out.metric[parity][s] = cost_less < cost ? cost_less : cost;
      out.k[parity][s] = static_cast<int32_t>(x[s] < 0 ? -m : m);
    }
  }
}

// The survivor of each state after a row: which branch it came by.
struct Survivors {
  float metric[kLanes], error[kLanes];
  int32_t from[kLanes], k[kLanes];
};

struct Machine {  // the trellis as the search needs it: into each state lead two branches
  float grid[kLanes] = {};
  int32_t from[2][kLanes] = {}, parity[2][kLanes] = {};
};

Machine MakeMachine() {
  Machine machine;
  int found[kLanes] = {};
  for (int s = 0; s < kLanes; ++s) {
    machine.grid[s] = kTrellis.grid[s];
    for (int parity = 0; parity < 2; ++parity) {
      const int next = kTrellis.next[s][parity];
      machine.from[found[next]][next] = s;
      machine.parity[found[next]][next] = parity;
      ++found[next];
    }
  }
  return machine;
}

// One row for all survivors. metric, target: of the survivors before, by state; original: W's
// value. Rows [0, row) of owed [row][lanes] take the feedback of the errors made.
CVXQ_CPU_CLONES void Advance(const Machine& machine, float step, float weight, const float* price,
                             float original, const float* metric, const float* target,
                             const float* lower, int64_t row, float* owed, Survivors& out) {
  float x[kLanes];
  const float inverse = 1 / step;
  for (int s = 0; s < kLanes; ++s) x[s] = target[s] * inverse;
  Branches branches;
  Branch(x, machine.grid, weight, price, branches);
  for (int s = 0; s < kLanes; ++s) {
    const int f0 = machine.from[0][s], p0 = machine.parity[0][s];
    const int f1 = machine.from[1][s], p1 = machine.parity[1][s];
    const float m0 = metric[f0] + branches.metric[p0][f0];
    const float m1 = metric[f1] + branches.metric[p1][f1];
    const bool second = m1 < m0;
    out.metric[s] = second ? m1 : m0;
    out.from[s] = second ? f1 : f0;
    out.k[s] = second ? branches.k[p1][f1] : branches.k[p0][f0];
  }
  for (int s = 0; s < kLanes; ++s) {
    const float grid = machine.grid[out.from[s]];
    const float k = static_cast<float>(out.k[s]);
    const float code = 2 * k - (k > 0 ? grid : k < 0 ? -grid : 0.0f);
    out.error[s] = code * step - original;
  }
  if (lower == nullptr) return;
  // A survivor takes over what its parent owed: a permutation of the lanes of each row.
  Lanes error;
  LaneIndex from;
  std::memcpy(&error, out.error, sizeof(error));
  std::memcpy(&from, out.from, sizeof(from));
  for (int64_t r = 0; r < row; ++r) {
    Lanes lanes;
    std::memcpy(&lanes, owed + r * kLanes, sizeof(lanes));
#if defined(__clang__)  // has no permutation by a vector
    Lanes moved;
    for (int s = 0; s < kLanes; ++s) moved[s] = lanes[from[s]];
    lanes = moved;
#else
    lanes = __builtin_shuffle(lanes, from);
#endif
    lanes += lower[r] * error;
    std::memcpy(owed + r * kLanes, &lanes, sizeof(lanes));
  }
}

}  // namespace

double TrellisSearch::Round(const ColumnTile& tile, const TrellisRow* rows, int& state,
                            float* target, float* rounded, int16_t* integers) {
  static const Machine machine = MakeMachine();
  const int64_t n = tile.rows;
  steps_.resize(n);
  owed_.assign(n * kLanes, 0.0f);
  Survivors survivors;
  float metric[kLanes];
  constexpr float kImpossible = 1e30f;
  std::fill_n(metric, kLanes, kImpossible);
  metric[state] = 0;
  double before = 0;  // taken off the metrics, which stay small and so exact
  for (int64_t r = n - 1; r >= 0; --r) {
    float t[kLanes];
    for (int s = 0; s < kLanes; ++s) t[s] = target[r] - owed_[r * kLanes + s];
    Advance(machine, rows[r].step, rows[r].weight, rows[r].price, tile.original[r], metric, t,
            tile.lower != nullptr ? tile.lower + r * tile.stride : nullptr, r, owed_.data(),
            survivors);
    Step& step = steps_[r];
    std::copy_n(survivors.from, kLanes, step.from);
    std::copy_n(survivors.k, kLanes, step.k);
    std::copy_n(t, kLanes, step.target);
    const float least = *std::min_element(survivors.metric, survivors.metric + kLanes);
    before += least;
    for (int s = 0; s < kLanes; ++s) metric[s] = std::min(survivors.metric[s] - least, kImpossible);
  }
  state = static_cast<int>(std::min_element(metric, metric + kLanes) - metric);
  int s = state;
  for (int64_t r = 0; r < n; ++r) {  // back along the path
    const int from = steps_[r].from[s], k = steps_[r].k[s];
    integers[r] = static_cast<int16_t>(k);
    target[r] = steps_[r].target[from];
    rounded[r] = static_cast<float>(kTrellis.Code(from, k)) * rows[r].step;
    s = from;
  }
  return before;
}

}  // namespace cvxq
