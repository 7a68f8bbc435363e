// Rounding with error feedback on a device: what quant/feedback.h does with any rule, for the rules
// that codecs have, as data.
//
// The mathematics is in quant/feedback.h. W [M, N] is rounded from the last place of rows and
// columns back; blocks of rows are independent of one another. Codes come as 16 bits for each
// weight, in W's own positions.
//
//   std::unique_ptr<DeviceRounder> rounder = MakeDeviceRounder(*backend);   // null: the CPU rounds
//   rounder->Round(feedback, grid, codes);
//   CVXQ_RETURN_IF_ERROR(backend->Synchronize());
#ifndef CVXQ_KERNELS_DEVICE_ROUNDER_H_
#define CVXQ_KERNELS_DEVICE_ROUNDER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace cvxq {

// What is rounded. Tensors are of the backend; lists are the host's.
struct DeviceFeedback {
  struct Block {
    std::vector<int32_t> rows;  // W's row in each place
    Tensor lower;  // L_O [n, n] F32, unit lower; empty: rows are independent of one another
  };
  Tensor w;                    // [M, N] F32
  Tensor lower;                // L_I [N, N] F32, unit lower; empty: no feedback between columns
  std::vector<int32_t> order;  // W's column in each place; empty: as they are
  std::vector<Block> blocks;   // together all rows, each once
  // Tiles of rows are cut from the first place of each block, 128 at most where rows feed each
  // other, else 256. Only the trellis depends on it: a path is decided at the end of its tile.
  int64_t tile_rows = 64;
};

// The trellis of quant/trellis_search.h. The step and the weight of a squared error of one step are
// products of one factor of the row and one of the column.
struct DeviceTrellis {
  static constexpr int kMagnitudes = 64;  // with a price of their own
  Tensor row_step, row_weight;            // [M] F32
  Tensor column_step, column_weight;      // [N]
  Tensor row_class, column_class;         // [M], [N] I32
  Tensor price;                           // [classes, 2 grids, kMagnitudes] F32, of a magnitude
  Tensor row_curvature;                   // [M] F32: of the sums below
  // [N] F32, set: of each column, the sum over its rows of curvature * (rounded - target)^2.
  Tensor squares;
};

// Grids for groups of consecutive columns: (code - zero) * scale. A scale of 0 holds nothing but 0.
struct DeviceGrid {
  Tensor scale;  // [M, ceil(N / group)] F32
  Tensor zero;   // the same, U8
  int64_t group = 0;
  int bits = 4;  // of a code
  Tensor kept;   // [N] U8: not 0 where the column is kept as halves (their bits are the codes); may
                 // be empty
};

// Levels of a table by the group's depth: scale * table[depth][code]; depth 0 is 0.
struct DeviceTable {
  static constexpr int kDepths = 9, kLevels = 256;
  Tensor depth;     // [clusters, M] U8
  Tensor scale;     // the same, F32
  Tensor cluster;   // [N] I32, of each column
  Tensor table;     // [kDepths, kLevels] F32, ascending
  Tensor boundary;  // the same: the points between levels; one at or above boundary i, below i + 1,
                    // has code i + 1
};

// The same levels for groups that are one column of one tile of rows each; the scale of a group is
// fitted to what feedback has made of it when its turn comes (quant/rounder.h): the one of least
// squared error among those within `reach` places of the root mean square.
struct DeviceFittedTable {
  static constexpr int64_t kMostRows = 128;  // of a tile
  // [tiles, N] U8, the tiles in the order of the blocks: set to 0 where there is nothing but zeros.
  Tensor depth;
  Tensor place;  // the same, I32, set where the depth is not 0: the place of the scale
  // [2, places] F32: 2^(i / steps) for i = first, first + 1, ..., and 1 over each.
  Tensor scales;
  int first = 0, steps = 4;
  int reach = 2;
  Tensor table, boundary;  // as DeviceTable has them
};

// P H P^T + damping = L diag(D) L^T (quant/curvature.h).
struct DeviceFactor {
  Tensor lower;                // L [n, n] F32, unit lower
  Tensor diagonal;             // D [n] F32
  std::vector<int32_t> order;  // the column of H in each place
  double damping = 0;          // what was added to the diagonal, as a share of its mean
};

// Used from the thread of its backend, which it does not outlive. Enqueued as operations of a
// backend are: errors come with Synchronize. The same bits from run to run.
class DeviceRounder {
 public:
  virtual ~DeviceRounder() = default;

  // The diagonal of h [n, n] F32, on the host: waits.
  virtual std::vector<float> Diagonal(const Tensor& h) = 0;
  // Factors h in this order; damping grows where it must, as FactorInOrder has it. Waits. Errors:
  // NaN or Inf is kDataLoss; those of the device.
  virtual StatusOr<DeviceFactor> Factor(const Tensor& h, std::vector<int32_t> order,
                                        double damping) = 0;

  // codes [M, N] U16, set: the bits of int16 k, or codes. A block whose rows do not feed each other
  // has at most tile_rows rows, and its trellis starts anew.
  virtual void Round(const DeviceFeedback& feedback, const DeviceTrellis& rule, Tensor codes) = 0;
  virtual void Round(const DeviceFeedback& feedback, const DeviceGrid& rule, Tensor codes) = 0;
  virtual void Round(const DeviceFeedback& feedback, const DeviceTable& rule, Tensor codes) = 0;
  // Tiles have at most kMostRows.
  virtual void Round(const DeviceFeedback& feedback, const DeviceFittedTable& rule,
                     Tensor codes) = 0;
};

// Null where the backend computes in host memory.
std::unique_ptr<DeviceRounder> MakeDeviceRounder(Backend& backend);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_DEVICE_ROUNDER_H_
