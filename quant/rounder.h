// Who rounds: the one way in which codecs have a linear coded, on the host's threads or on a
// device. Rules are data, so that a device can carry them out.
//
//   std::unique_ptr<Rounder> rounder = MakeRounder(*backend, pool);
//   CVXQ_ASSIGN_OR_RETURN(double distortion, CodeEntropy(input, prices, *rounder, codes));
//
// Results of the host are the same for any number of threads, those of a device from run to run;
// the two differ where two roundings are all but equally good.
#ifndef CVXQ_QUANT_ROUNDER_H_
#define CVXQ_QUANT_ROUNDER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/affine_matrix.h"
#include "kernels/backend.h"
#include "quant/curvature.h"
#include "quant/feedback.h"
#include "quant/tables.h"
#include "quant/trellis_search.h"

namespace cvxq {

// The most rows of a tile of the trellis on a device where all rows feed each other: 96 take three
// quarters of the time of 128, for 0.1 % more distortion (64: 0.6 %).
inline constexpr int64_t kDeviceTileRows = 96;

// Trellis-coded quantisation: of each weight the step and the weight of a squared error of one step
// are products of one factor of its row [M] and one of its column [N].
struct TrellisRule {
  std::span<const float> row_step, column_step;
  std::span<const float> row_weight, column_weight;
  // Prices are those of SymbolClass of the two, or of the last class that has any.
  std::span<const int8_t> row_class, column_class;
  const TrellisPrices* prices = nullptr;
  std::span<const float> row_curvature, column_curvature;  // D_O [M], D_I [N]
};

// Levels of tables, by the depth of a group: scale * table[depth][code]; depth 0 is 0 and has code
// 0. Groups are one row of one cluster of columns each, their scales known.
struct LevelRule {
  const LevelTables* tables = nullptr;
  std::span<const int32_t> cluster;  // [N] of each column
  std::span<const uint8_t> depth;    // [clusters, M]
  std::span<const float> scale;      // the same
};

// The same levels for groups that are one column of one tile of rows each. A group's scale is
// fitted when its turn comes, to what feedback from other tiles and columns has made of it:
// FitScale, from the root mean square.
struct FittedLevelRule {
  const LevelTables* tables = nullptr;
  int scale_steps = 4;  // of the grid of scales, to an octave
  int reach = 2;        // steps of it to either side of the root mean square that are tried
  // [tiles, N], the tiles in the order of the blocks.
  std::span<uint8_t> depth;  // set to 0 where there is nothing but zeros
  std::span<float> scale;    // set where the depth is not 0
};

// Any thread, several at once. Everything referred to outlives the call. Errors: those of a device.
class Rounder {
 public:
  virtual ~Rounder() = default;

  // FactorInOrder, FactorCurvature (quant/curvature.h). A device has two matrices [n, n] for them.
  virtual StatusOr<CurvatureFactor> FactorInOrder(std::vector<float> h, std::vector<int32_t> order,
                                                  double damping) = 0;
  StatusOr<CurvatureFactor> FactorCurvature(std::vector<float> h, int64_t n, double damping,
                                            WorkOrder order);

  // Sets integers [M, N]; gives the distortion sum 1/2 D_O D_I e^2. The trellis goes on from tile
  // to tile of a block whose rows feed each other; other blocks have one tile.
  virtual StatusOr<double> RoundToTrellis(const FeedbackInput& feedback, const TrellisRule& rule,
                                          std::span<int16_t> integers) = 0;

  // Set codes [M, N]. A tile of fitted levels is a row of groups, so a device takes it as it is,
  // and leaves tiles of more than 128 rows (DeviceFittedTable::kMostRows) to the host.
  virtual Status RoundToLevels(const FeedbackInput& feedback, const LevelRule& rule,
                               std::span<uint8_t> codes) = 0;
  virtual Status RoundToFittedLevels(const FeedbackInput& feedback, const FittedLevelRule& rule,
                                     std::span<uint8_t> codes) = 0;

  // Sets the codes of m on its grids, and the halves of the columns that it keeps.
  virtual Status RoundToGrids(const FeedbackInput& feedback, AffineMatrix& m) = 0;
};

// The rule of RoundToGrids for one column that m does not keep.
void RoundColumnToGrid(const ColumnTile& tile, AffineMatrix& m, float* target, float* rounded);

// On the host, with RoundWithFeedback. The pool outlives it.
std::unique_ptr<Rounder> MakeCpuRounder(ThreadPool& pool);
// On the backend's device, else on the host. Both outlive it; the backend is used while a call
// lasts, by one call at a time.
std::unique_ptr<Rounder> MakeRounder(Backend& backend, ThreadPool& pool);

}  // namespace cvxq

#endif  // CVXQ_QUANT_ROUNDER_H_
