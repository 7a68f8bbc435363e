// Rounding with error feedback, by the rules of the codecs: which kernels work the tiles of a wave
// (feedback_waves.cuh), and of what size tiles are.
//
// Speed, estimated from instructions and latencies at 1.8 GHz. With R x C the rows and columns of a
// tile and one multiprocessor a tile:
//   rows that feed each other   N R + M C rows are rounded one after another, in some 75 cycles
//                               each with levels (R = 64) and 150 with the trellis (R = 96; 140 and
//                               160 with 64 and 128), and products take 7 ms of 4096 x 4096: 23 ms
//                               and 51 (38, 65) ms, 0.7 and 0.33 (0.45, 0.26) billion weights a
//                               second. The chain is what bounds it: at most
//                               min(M / R, N / C) multiprocessors have a tile, so twice the size of
//                               both sides has twice the speed, and linears side by side would too
//   trellis, rows free          N R rows one after another, R = 256, 120 cycles each
//   levels, rows free           nothing is serial: M N^2 operations of products in float, and the
//                               tiles' own M N C: 4 ms of 4096 x 4096
#include <memory>
#include <utility>
#include <vector>

#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/curvature.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/feedback_waves.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scalar_rounding.cuh"
#include "kernels/cuda/trellis_search.cuh"
#include "kernels/device_rounder.h"

namespace cvxq {
namespace cuda {
namespace {

// Of a tile: the most rows of the trellis, the rows of levels (nothing depends on them), columns.
constexpr int kFeedingRows = 128, kFreeRows = 256, kLevelRows = 64;
constexpr int kFeedingColumns = 32, kFreeColumns = 128;
static_assert(DeviceFittedTable::kMostRows <= ScalarRule<FittedLevels>::kMost * kWarp);

// sums[column[c]] += the sum of squares[tiles, c] (c < width).
__global__ void AddSquaresKernel(const float* squares, const int32_t* column, float* sums,
                                 int64_t tiles, int64_t stride, int64_t width) {
  for (int64_t c = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; c < width;
       c += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    for (int64_t i = 0; i < tiles; ++i) sum += squares[i * stride + c];
    sums[column[c]] += sum;
  }
}

class CudaRounder : public DeviceRounder {
 public:
  CudaRounder(std::shared_ptr<Device> device, Products& products)
      : device_(std::move(device)), products_(products) {}

  std::vector<float> Diagonal(const Tensor& h) override { return DiagonalOf(*device_, h); }

  StatusOr<DeviceFactor> Factor(const Tensor& h, std::vector<int32_t> order,
                                double damping) override {
    if (solver_ == nullptr) {
      CVXQ_ASSIGN_OR_RETURN(solver_, Solver::Make(*device_));
    }
    return FactorOnDevice(*device_, *solver_, h, std::move(order), damping);
  }

  void Round(const DeviceFeedback& f, const DeviceTrellis& rule, Tensor codes) override {
    if (device_->failed()) return;
    for (const DeviceFeedback::Block& block : f.blocks) {
      Require(f.tile_rows <= (block.lower.empty() ? kFreeRows : kFeedingRows) &&
                  (!block.lower.empty() || std::ssize(block.rows) <= f.tile_rows),
              "Round: tiles of the trellis are too long, or cut rows that are independent");
    }
    TrellisArguments arguments = {.row_step = Data<float>(rule.row_step),
                                  .row_weight = Data<float>(rule.row_weight),
                                  .column_step = Data<float>(rule.column_step),
                                  .column_weight = Data<float>(rule.column_weight),
                                  .row_class = Data<int32_t>(rule.row_class),
                                  .column_class = Data<int32_t>(rule.column_class),
                                  .price = Data<float>(rule.price),
                                  .classes = static_cast<int>(rule.price.shape[0]),
                                  .row_curvature = Data<float>(rule.row_curvature)};
    device_->Clear(DeviceBytes(rule.squares), rule.squares.bytes());
    for (const Run& run : Runs(f.blocks, f.tile_rows)) {
      RunOfTiles waves(*device_, products_, f, run, codes, kFeedingColumns);
      const int64_t stride = waves.tiles().stride;
      const Tensor squares = device_->Scratch(DType::kF32, {waves.row_tiles(), stride});
      const Tensor state = device_->Scratch(DType::kU8, {stride});
      if (device_->failed()) return;
      device_->Clear(DeviceBytes(state), stride);
      arguments.squares = Data<float>(squares);
      arguments.state = Data<uint8_t>(state);
      waves.Work([&](const Tiles& tiles, int64_t count) {
        waves.feeds() ? Search<true>(tiles, count, arguments)
                      : Search<false>(tiles, count, arguments);
      });
      Launch(*device_, ElementGrid(f.w.shape[1]), AddSquaresKernel, Data<float>(squares),
             waves.tiles().column, Data<float>(rule.squares), waves.row_tiles(), stride,
             f.w.shape[1]);
    }
  }

  void Round(const DeviceFeedback& f, const DeviceGrid& rule, Tensor codes) override {
    if (device_->failed()) return;
    RoundScalars(f, codes,
                 GridLevels{.scale = Data<float>(rule.scale),
                            .zero = Data<uint8_t>(rule.zero),
                            .kept = Data<uint8_t>(rule.kept),
                            .group = rule.group,
                            .groups = rule.scale.shape[1],
                            .most = static_cast<float>((1 << rule.bits) - 1)});
  }

  void Round(const DeviceFeedback& f, const DeviceTable& rule, Tensor codes) override {
    if (device_->failed()) return;
    RoundScalars(f, codes,
                 TableLevels{.depth = Data<uint8_t>(rule.depth),
                             .scale = Data<float>(rule.scale),
                             .cluster = Data<int32_t>(rule.cluster),
                             .table = Data<float>(rule.table),
                             .boundary = Data<float>(rule.boundary),
                             .rows = rule.depth.shape[1],
                             .levels = DeviceTable::kLevels});
  }

  void Round(const DeviceFeedback& f, const DeviceFittedTable& rule, Tensor codes) override {
    if (device_->failed()) return;
    Require(f.tile_rows <= DeviceFittedTable::kMostRows,
            "Round: tiles of fitted groups are too long");
    FittedLevels levels = {.depth = Data<uint8_t>(rule.depth),
                           .place = Data<int32_t>(rule.place),
                           .scales = Data<float>(rule.scales),
                           .first = rule.first,
                           .steps = rule.steps,
                           .count = static_cast<int>(rule.scales.shape[1]),
                           .reach = rule.reach,
                           .table = Data<float>(rule.table),
                           .boundary = Data<float>(rule.boundary),
                           .levels = DeviceTable::kLevels};
    for (const Run& run : Runs(f.blocks, f.tile_rows)) {
      RunOfTiles waves(*device_, products_, f, run, codes, kFeedingColumns);
      levels.cluster = waves.List(run.tile);
      waves.Work([&](const Tiles& tiles, int64_t count) { RoundTiles(tiles, count, levels); });
    }
  }

 private:
  template <bool kFeeds>
  void Search(const Tiles& tiles, int64_t count, const TrellisArguments& arguments) {
    const int64_t floats = TileFloats(tiles.rows, tiles.columns) +
                           TrellisSharedFloats(tiles.rows, arguments.classes, kFeeds);
    Launch(*device_, {.x = count, .threads = kTileThreads, .shared_bytes = 4 * floats},
           TileKernel<TrellisRule<kFeeds>>, tiles, TrellisRule<kFeeds>{arguments});
  }

  template <typename Levels>
  void RoundTiles(const Tiles& tiles, int64_t count, const Levels& levels) {
    const int64_t floats =
        TileFloats(tiles.rows, tiles.columns) + ScalarRule<Levels>::SharedFloats(tiles.rows);
    Launch(*device_, {.x = count, .threads = kTileThreads, .shared_bytes = 4 * floats},
           TileKernel<ScalarRule<Levels>>, tiles, ScalarRule<Levels>{levels});
  }

  template <typename Levels>
  void RoundScalars(const DeviceFeedback& f, const Tensor& codes, const Levels& levels) {
    for (const Run& run : Runs(f.blocks, kLevelRows)) {
      RunOfTiles waves(*device_, products_, f, run, codes,
                       run.lower.empty() ? kFreeColumns : kFeedingColumns);
      waves.Work([&](const Tiles& tiles, int64_t count) {
        const int64_t floats = TileFloats(tiles.rows, tiles.columns);
        if (waves.feeds()) {
          RoundTiles(tiles, count, levels);
        } else {
          Launch(*device_, {.x = count, .threads = tiles.rows, .shared_bytes = 4 * floats},
                 FreeTileKernel<Levels>, tiles, levels);
        }
      });
    }
  }

  const std::shared_ptr<Device> device_;
  Products& products_;
  std::unique_ptr<Solver> solver_;  // made when it is needed first
};

}  // namespace
}  // namespace cuda

std::unique_ptr<DeviceRounder> MakeDeviceRounder(Backend& backend) {
  const auto* gpu = dynamic_cast<cuda::CudaBackend*>(&backend);
  if (gpu == nullptr) return nullptr;
  return std::make_unique<cuda::CudaRounder>(gpu->device(), gpu->products());
}

}  // namespace cvxq
