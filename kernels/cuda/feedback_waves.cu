// Error feedback in waves: how rows come to runs, what a run has in memory, and its products.
#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/feedback_waves.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {
namespace {

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

}  // namespace

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

RunOfTiles::RunOfTiles(Device& device, Products& products, const DeviceFeedback& f, const Run& run,
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
  Place(Data<float>(f.w), width, tiles_.row, lines, tiles_.column, stride, tiles_.target, original);
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

const int32_t* RunOfTiles::List(const std::vector<int32_t>& list) {
  std::byte* data = Keep(device_.Scratch(DType::kI32, {std::ssize(list)}));
  device_.Upload(list.data(), data, 4 * std::ssize(list));
  return reinterpret_cast<const int32_t*>(data);
}

std::byte* RunOfTiles::Keep(Tensor tensor) {
  arrays_.push_back(std::move(tensor));
  return device_.failed() ? nullptr : DeviceBytes(arrays_.back());
}

float* RunOfTiles::Floats(int64_t count) {
  return reinterpret_cast<float*>(Keep(device_.Scratch(DType::kF32, {count})));
}

void RunOfTiles::Place(const float* x, int64_t width, const int32_t* row, int64_t lines,
                       const int32_t* column, int64_t stride, float* y, float* copy) {
  Launch(device_, ElementGrid(lines * stride), PlaceKernel, x, row, column, y, copy, lines, stride,
         width);
}

void RunOfTiles::OweColumns(int64_t count) {
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

void RunOfTiles::OweRows(int64_t count) {
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

}  // namespace cvxq::cuda
