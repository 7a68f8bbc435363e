// Error feedback in waves: the tiles of feedback_tile.cuh, which of them are worked at once, and
// the products between them.
//
// Blocks whose rows feed each other are worked one after another, each in waves: its tiles on one
// antidiagonal are independent and are rounded by one launch; then two batched products give what
// they owe, to earlier columns of the same rows and to earlier rows of the same columns. (Batches
// of one size compute some products with the zeros above L's diagonal: twice the arithmetic that is
// needed, and far fewer kinds of products.) All other rows together take one launch and one product
// for each tile of columns.
//
//   for (const Run& run : Runs(feedback.blocks, tile_rows)) {
//     RunOfTiles waves(device, products, feedback, run, codes, columns);
//     waves.Work([&](const Tiles& tiles, int64_t count) { ... });  // a launch
//   }
#ifndef CVXQ_KERNELS_CUDA_FEEDBACK_WAVES_CUH_
#define CVXQ_KERNELS_CUDA_FEEDBACK_WAVES_CUH_

#include <cstdint>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/feedback_tile.cuh"
#include "kernels/cuda/products.h"
#include "kernels/device_rounder.h"

namespace cvxq::cuda {

// Rows that are worked together, in tiles as feedback_tile.cuh has them.
struct Run {
  std::vector<int32_t> row;      // [tiles, R]
  std::vector<int32_t> rows_of;  // [tiles]
  std::vector<int32_t> place;    // of each row in its block
  std::vector<int32_t> tile;     // of each row tile its number, in the order of the blocks
  Tensor lower;                  // L_O as the caller has it; empty: rows are independent
};

// Those of all blocks, tiles cut from the first place of each: one of each block whose rows feed
// each other, and one of all other rows.
std::vector<Run> Runs(const std::vector<DeviceFeedback::Block>& blocks, int64_t tile_rows);

// The waves of one run. Its arrays live as long as it does.
class RunOfTiles {
 public:
  RunOfTiles(Device& device, Products& products, const DeviceFeedback& f, const Run& run,
             const Tensor& codes, int columns);

  const Tiles& tiles() const { return tiles_; }
  // A list of the host's, on the device for as long as this lives.
  const int32_t* List(const std::vector<int32_t>& list);
  int64_t row_tiles() const { return row_tiles_; }
  bool feeds() const { return tiles_.feed != nullptr; }

  // round(tiles, count): rounds the `count` tiles of a wave.
  template <typename Round>
  void Work(const Round& round) {
    if (!feeds()) {
      for (tiles_.first_column = column_tiles() - 1; tiles_.first_column >= 0;
           --tiles_.first_column) {
        round(tiles_, row_tiles_);
        OweColumns(row_tiles_);
      }
      return;
    }
    tiles_.column_step = 1;
    for (int64_t i = 0; i < Waves(row_tiles_, column_tiles()); ++i) {
      const Wave wave = WaveOf(i, row_tiles_, column_tiles());
      tiles_.first_row = wave.first_row;
      tiles_.first_column = wave.first_column;
      round(tiles_, wave.count);
      OweColumns(wave.count);
      OweRows(wave.count);
    }
  }

 private:
  int64_t column_tiles() const { return tiles_.stride / tiles_.columns; }

  std::byte* Keep(Tensor tensor);
  float* Floats(int64_t count);
  void Place(const float* x, int64_t width, const int32_t* row, int64_t lines,
             const int32_t* column, int64_t stride, float* y, float* copy);
  // What a wave's tiles owe: to all earlier columns of their rows.
  void OweColumns(int64_t count);
  // To all earlier rows of their columns, which come later in the arrays.
  void OweRows(int64_t count);

  Device& device_;
  Products& products_;
  const int64_t row_tiles_;
  Tiles tiles_;
  float* owed_ = nullptr;
  std::vector<Tensor> arrays_;
};

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_FEEDBACK_WAVES_CUH_
