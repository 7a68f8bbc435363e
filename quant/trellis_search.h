// The search of trellis-coded quantisation (trellis.h): the path of least distortion down one
// column of a tile, where every rounding error changes the targets of the rows after it.
//
// A Viterbi search with one survivor a state. Each survivor carries the feedback that its own
// errors give to the rows still to come (per-survivor processing), so error feedback between the
// rows (feedback.h) and the trellis work together.
#ifndef CVXQ_QUANT_TRELLIS_SEARCH_H_
#define CVXQ_QUANT_TRELLIS_SEARCH_H_

#include <cstdint>
#include <vector>

#include "quant/feedback.h"
#include "quant/trellis.h"

namespace cvxq {

// What each magnitude of k costs beside its error, in units of a squared error of one step:
// [classes][2 grids][kPricedMagnitudes]. Larger ones cost what the last does.
inline constexpr int kPricedMagnitudes = 64;
struct TrellisPrices {
  std::vector<float> price;
  int classes() const { return static_cast<int>(price.size()) / (2 * kPricedMagnitudes); }
  const float* Of(int symbol_class) const {
    return &price[static_cast<size_t>(symbol_class) * 2 * kPricedMagnitudes];
  }
};

// What the search needs of each row of a tile, in places as ColumnTile has them.
struct TrellisRow {
  float step = 1;                // of the code grid: the value is code * step
  float weight = 1;              // of a squared error of one step
  const float* price = nullptr;  // TrellisPrices::Of its class
};

// Buffers; one a thread, reused from column to column.
class TrellisSearch {
 public:
  // Rounds one column as RoundColumn asks for, rows from the last place back, from trellis state
  // `state`, which becomes the state after the first place. integers[rows] takes k. Gives the
  // metric of the path: sum weight (error / step)^2 + price.
  double Round(const ColumnTile& tile, const TrellisRow* rows, int& state, float* target,
               float* rounded, int16_t* integers);

 private:
  static constexpr int kLanes = kTrellisStates;
  struct Step {  // of one row: how each survivor after it came about
    int32_t from[kLanes], k[kLanes];
    float target[kLanes];
  };
  std::vector<Step> steps_;
  std::vector<float> owed_;  // [rows][lanes]: feedback to rows still to come
};

}  // namespace cvxq

#endif  // CVXQ_QUANT_TRELLIS_SEARCH_H_
