// Error feedback: the waves of tiles and the products between them.
//
// Blocks whose rows feed each other are worked one after another, each in waves: its tiles on one
// antidiagonal are independent and are rounded by one launch; then two batched products give what
// they owe, to earlier columns of the same rows and to earlier rows of the same columns. (Batches
// of one size compute some products with the zeros above L's diagonal: twice the arithmetic that is
// needed, and far fewer kinds of products.) All other rows together take one launch and one product
// for each tile of columns.
//
// Speed, estimated from instructions and latencies at 1.8 GHz. With R x C the rows and columns of a
// tile and one multiprocessor a tile:
//   rows that feed each other   N R + M C rows are rounded one after another, in some 75 cycles
//   each
//                               with levels (R = 64) and 150 with the trellis (R = 96; 140 and 160
//                               with 64 and 128), and products take 7 ms of 4096 x 4096: 23 ms and
//                               51 (38, 65) ms, 0.7 and 0.33 (0.45, 0.26) billion weights a
//                               second. The chain is what bounds it: at most
//                               min(M / R, N / C) multiprocessors have a tile, so twice the size of
//                               both sides has twice the speed, and linears side by side would too
//   trellis, rows free          N R rows one after another, R = 256, 120 cycles each
//   levels, rows free           nothing is serial: M N^2 operations of products in float, and the
//                               tiles' own M N C: 4 ms of 4096 x 4096
#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/curvature.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/feedback_tile.cuh"
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
constexpr int64_t kProductStep = 512;  // what products leave out is a multiple of it

// y[i, j] (i < lines, j < stride) = x[row[i], column[j]], 0 where either is -1.
__global__ void PlaceKernel(const float* x, const int32_t* row, const int32_t* column, float* y,
                            float* copy, int64_t lines, int64_t stride, int64_t width) {
  for (int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; at < lines * stride;
       at += int64_t{gridDim.x} * blockDim.x) {
    const int32_t r = row[at / stride], c = column[at % stride];
    const float value = r < 0 || c < 0 ? 0 : x[r * width + c];
    y[at] = value;
    if (copy != nullptr) copy[at] = value;
  }
}

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

// Rows that are worked together, in tiles as feedback_tile.cuh has them.
struct Run {
  std::vector<int32_t> row;      // [tiles, R]
  std::vector<int32_t> rows_of;  // [tiles]
  std::vector<int32_t> place;    // of each row in its block
  std::vector<int32_t> tile;     // of each row tile its number, in the order of the blocks
  Tensor lower;                  // L_O as the caller has it; empty: rows are independent
};

// `before`: the tiles of the blocks before this one.
void AppendTile(const std::vector<int32_t>& rows, int64_t first, int64_t tile_rows, int64_t before,
                Run& run) {
  run.tile.push_back(static_cast<int32_t>(before + first / tile_rows));
  const int64_t n = std::min(tile_rows, static_cast<int64_t>(rows.size()) - first);
  run.rows_of.push_back(static_cast<int32_t>(n));
  for (int64_t i = 0; i < tile_rows; ++i) {
    run.row.push_back(i < n ? rows[first + i] : -1);
    run.place.push_back(i < n ? static_cast<int32_t>(first + i) : -1);
  }
}

std::vector<Run> Runs(const std::vector<DeviceFeedback::Block>& blocks, int64_t tile_rows) {
  std::vector<Run> runs;
  Run free;  // rows that are independent, of all blocks
  int64_t before = 0;
  for (const DeviceFeedback::Block& block : blocks) {
    const int64_t n = static_cast<int64_t>(block.rows.size());
    if (block.lower.empty()) {
      for (int64_t first = 0; first < n; first += tile_rows) {
        AppendTile(block.rows, first, tile_rows, before, free);
      }
    } else {
      Run& run = runs.emplace_back();
      run.lower = block.lower;
      for (int64_t first = (n - 1) / tile_rows * tile_rows; first >= 0; first -= tile_rows) {
        AppendTile(block.rows, first, tile_rows, before, run);
      }
    }
    before += CeilDiv(n, tile_rows);
  }
  if (!free.row.empty()) runs.push_back(std::move(free));
  return runs;
}

// The waves of one run.
class RunOfTiles {
 public:
  RunOfTiles(Device& device, Products& products, const DeviceFeedback& f, const Run& run,
             const Tensor& codes, int columns)
      : device_(device), products_(products), row_tiles_(std::ssize(run.rows_of)) {
    const int64_t width = f.w.shape[1], stride = CeilDiv(width, columns) * columns;
    const int64_t lines = std::ssize(run.row);
    tiles_.rows = static_cast<int>(lines / row_tiles_);
    tiles_.columns = columns;
    tiles_.stride = stride;
    tiles_.width = width;
    tiles_.codes = Data<uint16_t>(codes);
    std::vector<int32_t> column = f.order;
    if (column.empty()) {
      column.resize(width);
      std::iota(column.begin(), column.end(), 0);
    }
    column.resize(stride, -1);
    tiles_.column = List(column);
    tiles_.row = List(run.row);
    tiles_.rows_of = List(run.rows_of);
    tiles_.target = Floats(lines * stride);
    float* original = Floats(lines * stride);
    tiles_.original = original;
    Place(Data<float>(f.w), width, tiles_.row, lines, tiles_.column, stride, tiles_.target,
          original);
    if (!f.lower.empty()) {
      tiles_.lower = Data<float>(f.lower);
      if (stride != width) {
        std::iota(column.begin(), column.begin() + width, 0);
        const int32_t* place = List(column);
        float* lower = Floats(stride * stride);
        Place(tiles_.lower, width, place, stride, place, stride, lower, nullptr);
        tiles_.lower = lower;
      }
    }
    if (!run.lower.empty()) {
      const int32_t* place = List(run.place);
      float* feed = Floats(lines * lines);
      Place(Data<float>(run.lower), run.lower.shape[0], place, lines, place, lines, feed, nullptr);
      tiles_.feed = feed;
      tiles_.feed_stride = lines;
      owed_ = Floats(lines * stride);
      device.Clear(reinterpret_cast<std::byte*>(owed_), 4 * lines * stride);
      tiles_.owed = owed_;
    }
    const int64_t together = feeds() ? std::min(row_tiles_, column_tiles()) : row_tiles_;
    tiles_.negative = Floats(together * tiles_.rows * columns);
    if (feeds()) tiles_.error = Floats(together * tiles_.rows * columns);
  }

  const Tiles& tiles() const { return tiles_; }
  // A list of the host's, on the device for as long as this lives.
  const int32_t* List(const std::vector<int32_t>& list) {
    std::byte* data = Keep(device_.Scratch(DType::kI32, {std::ssize(list)}));
    device_.Upload(list.data(), data, 4 * std::ssize(list));
    return reinterpret_cast<const int32_t*>(data);
  }
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

  std::byte* Keep(Tensor tensor) {
    arrays_.push_back(std::move(tensor));
    return device_.failed() ? nullptr : DeviceBytes(arrays_.back());
  }
  float* Floats(int64_t count) {
    return reinterpret_cast<float*>(Keep(device_.Scratch(DType::kF32, {count})));
  }
  void Place(const float* x, int64_t width, const int32_t* row, int64_t lines,
             const int32_t* column, int64_t stride, float* y, float* copy) {
    Launch(device_, ElementGrid(lines * stride), PlaceKernel, x, row, column, y, copy, lines,
           stride, width);
  }

  // To all earlier columns of their rows.
  void OweColumns(int64_t count) {
    if (tiles_.lower == nullptr) return;
    const int64_t rows = tiles_.rows, columns = tiles_.columns, stride = tiles_.stride;
    Product product = {.m = rows,
                       .k = columns,
                       .a = reinterpret_cast<const std::byte*>(tiles_.negative),
                       .a_stride = columns,
                       .b = reinterpret_cast<const std::byte*>(tiles_.lower + tiles_.first_column *
                                                                                  columns * stride),
                       .b_stride = stride,
                       .c = tiles_.target + tiles_.first_row * rows * stride,
                       .c_stride = stride,
                       .accumulate = true};
    if (feeds()) {
      const int64_t most = (tiles_.first_column + count - 1) * columns;  // of the last tile
      product.n = std::min(stride, CeilDiv(most, kProductStep) * kProductStep);
      product.batch = count;
      product.a_distance = rows * columns;
      product.b_distance = columns * stride;
      product.c_distance = rows * stride;
    } else {
      product.m *= count;
      product.n = tiles_.first_column * columns;
    }
    if (product.n > 0) products_.Multiply(product);
  }

  // To all earlier rows of their columns, which come later in the arrays.
  void OweRows(int64_t count) {
    const int64_t rows = tiles_.rows, columns = tiles_.columns, lines = rows * row_tiles_;
    const int64_t begin = (tiles_.first_row + 1) * rows / kProductStep * kProductStep;
    if ((tiles_.first_row + 1) * rows == lines) return;
    products_.Multiply({.m = lines - begin,
                        .n = columns,
                        .k = rows,
                        .a = reinterpret_cast<const std::byte*>(
                            tiles_.feed + tiles_.first_row * rows * lines + begin),
                        .transpose_a = true,
                        .a_stride = lines,
                        .b = reinterpret_cast<const std::byte*>(tiles_.error),
                        .b_stride = columns,
                        .c = owed_ + begin * tiles_.stride + tiles_.first_column * columns,
                        .c_stride = tiles_.stride,
                        .accumulate = true,
                        .batch = count,
                        .a_distance = rows * lines,
                        .b_distance = rows * columns,
                        .c_distance = columns});
  }

  Device& device_;
  Products& products_;
  const int64_t row_tiles_;
  Tiles tiles_;
  float* owed_ = nullptr;
  std::vector<Tensor> arrays_;
};

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
    Require(f.tile_rows <= kFeedingRows, "Round: tiles of fitted groups are too long");
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
