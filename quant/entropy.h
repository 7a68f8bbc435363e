// The codec `entropy`: one uniform grid for each weight, of a step that makes every weight of the
// model cost the same distortion for the same bits, and integers on it that are entropy-coded.
//
// With error feedback the distortion of a weight's rounding error e is 1/2 D_O[r] D_I[c] e^2
// (feedback.h), so the step of row r and column c is delta / sqrt(D_O[r] D_I[c]), with one delta
// for all layers: delta^2 is the Lagrange multiplier of distortion against bits. Both factors of
// the step are rounded to the grid of scale_grid.h. Integers are chosen by trellis-coded
// quantisation (trellis_search.h). Choosing them for less rate as well lowers the predicted
// distortion and raises the real one: it shrinks weights coherently (docs/quality.md).
#ifndef CVXQ_QUANT_ENTROPY_H_
#define CVXQ_QUANT_ENTROPY_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "quant/entropy_tables.h"
#include "quant/feedback.h"
#include "quant/rounder.h"
#include "quant/scaled_codes.h"
#include "quant/trellis_search.h"

namespace cvxq {

// Rows of one tile of the search, where rows feed each other. The path is decided at its end.
inline constexpr int64_t kEntropyTileRows = 128;
// Where rows do not feed each other the trellis starts anew after so many.
inline constexpr int64_t kEntropyFreeRows = 256;

// One linear to be coded. Everything referred to outlives the call.
struct EntropyInput {
  const float* w = nullptr;  // [M, N]
  int64_t rows = 0, columns = 0;
  const CurvatureFactor* inputs = nullptr;  // nullptr: no feedback between columns
  // Blocks of consecutive rows, each the same number (the last may have fewer), the first row of a
  // block in its last place: the trellis runs in the order of work.
  std::span<const RowBlock> blocks;
  std::span<const float> row_curvature;     // D_O [M]
  std::span<const float> column_curvature;  // D_I [N]
  double delta = 1;
  int scale_steps = 4;
};

// Shape, steps and trellis for this delta; classes and integers are zero. A row or column without
// curvature takes a step that leaves zeros.
ScaledCodes StartScaledCodes(const EntropyInput& input);

// The bits that the integers of a model will take, foreseen from the weights and steps alone:
// counts of weights by the spread of their integers, log2 of the standard deviation at delta = 1,
// taken as a product of one factor of the row and one of the column. Mergeable in any order.
class SpreadHistogram {
 public:
  // The weights of one linear; `codes` has its steps.
  void Add(const EntropyInput& input, const ScaledCodes& codes);
  void Merge(const SpreadHistogram& other);
  // Bits of all weights added at this delta: for a normal source, at any rate. Near enough to start
  // from; what is left over is measured.
  double Bits(double log2_delta) const;
  double weights() const;
  // The weights by spread, to be sent elsewhere.
  std::span<const double> bins() const { return bins_; }
  void Set(size_t bin, double weights) { bins_[bin] = weights; }

 private:
  static constexpr int kBinsPerOctave = 8, kBins = 200 * kBinsPerOctave;  // 2^-100 .. 2^100
  std::vector<double> bins_ = std::vector<double>(kBins, 0.0);
};

// The delta at which foreseen bits, times `correction`, meet the budget: dual ascent on log2 delta
// with step (rate - budget), since the rate falls by a bit a weight with every octave.
double AscendDelta(const SpreadHistogram& histogram, double correction, double budget_bits,
                   double log2_delta);

// How much of what a bit is worth the search takes into account. All of it would give the least
// predicted distortion, but shrinks the weights of all layers together, which costs more than what
// is predicted (docs/quality.md).
inline constexpr double kRateShare = 0.2;

// The prices of integers: those of `tables`, or none.
TrellisPrices PricesOf(const EntropyTables* tables);

// Classes as they can be foreseen: of the weights rounded to the nearest, without feedback.
void ForeseeClasses(const EntropyInput& input, ScaledCodes& codes);

// Chooses codes.integers, with the prices of the classes that codes has. Gives the
// distortion sum 1/2 D_O D_I e^2, in nats of KL a token. Errors: the rounder's.
StatusOr<double> CodeEntropy(const EntropyInput& input, const TrellisPrices& prices,
                             Rounder& rounder, ScaledCodes& codes);

}  // namespace cvxq

#endif  // CVXQ_QUANT_ENTROPY_H_
