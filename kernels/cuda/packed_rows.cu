// Packed matrices with partition kRows: products in float and decoding, a warp for each row.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

// RowLayout in device memory.
struct RowsView {
  int64_t M = 0, N = 0, clusters = 0, cluster_size = 1;
  const int32_t* members = nullptr;
  const int64_t* row_word = nullptr;
  const uint32_t* group_word = nullptr;
  const uint8_t* depth = nullptr;
  const float* scale = nullptr;
  const float* mean = nullptr;  // may be null
  const uint32_t* words = nullptr;
  const float* tables = nullptr;
};

struct PackedRows : public CudaPackedWeight {
  RowsView view;
  Tensor memory[8];  // what the view points to

  void MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                   const Tensor& y) const override;
  void UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const override;
};

// One row and cluster: its codes as levels of the table.
struct Group {
  __device__ Group(const RowsView& view, int64_t row, int64_t cluster)
      : depth(view.depth[row * view.clusters + cluster]),
        scale(view.scale[row * view.clusters + cluster]),
        mean(view.mean == nullptr ? 0 : view.mean[row * view.clusters + cluster]),
        begin(cluster * view.cluster_size),
        size(view.N - begin < view.cluster_size ? view.N - begin : view.cluster_size),
        words(view.words + view.row_word[row] + view.group_word[row * view.clusters + cluster]),
        table(view.tables + FirstOfTable(depth)) {}

  // Of member i; depth > 0.
  __device__ float Level(int64_t i) const {
    const int64_t word = i * depth / 32;
    const auto shift = static_cast<int>(i * depth % 32);
    uint64_t two = words[word];
    if (shift + depth > 32) two |= uint64_t{words[word + 1]} << 32;
    return table[static_cast<uint32_t>(two >> shift) & ((1u << depth) - 1)];
  }

  int depth;
  float scale, mean;
  int64_t begin, size;  // the members
  const uint32_t* words;
  const float* table;
};

// y[n, M] from x[n, N]. Blocks (8 rows, vector).
__global__ __launch_bounds__(kBlockThreads) void PackedRowsKernel(RowsView view, const float* all_x,
                                                                  const float* bias, float* all_y) {
  const int64_t row = blockIdx.x * int64_t{kPackedWarps} + threadIdx.x / kWarp;
  if (row >= view.M) return;
  const float* x = all_x + blockIdx.y * view.N;
  const int lane = threadIdx.x % kWarp;
  float sum = 0;
  for (int64_t c = 0; c < view.clusters; ++c) {
    const Group group(view, row, c);
    float levels = 0, means = 0;
    for (int64_t i = lane; i < group.size; i += kWarp) {
      const float value = x[view.members[group.begin + i]];
      if (group.depth > 0) levels = Fma(group.Level(i), value, levels);
      means += value;
    }
    if (group.depth > 0) sum = Fma(group.scale, levels, sum);
    if (view.mean != nullptr) sum = Fma(group.mean, means, sum);
  }
  sum = WarpReduce(sum, Sum());
  if (lane == 0) {
    all_y[blockIdx.y * view.M + row] = bias == nullptr ? sum : sum + bias[row];
  }
}

// w[rows, N] = the rows from first_row on.
template <typename T>
__global__ __launch_bounds__(kBlockThreads) void UnpackRowsKernel(RowsView view, int64_t first_row,
                                                                  int64_t rows, T* w) {
  const int64_t row = blockIdx.x * int64_t{kPackedWarps} + threadIdx.x / kWarp;
  if (row >= rows) return;
  for (int64_t c = 0; c < view.clusters; ++c) {
    const Group group(view, first_row + row, c);
    for (int64_t i = threadIdx.x % kWarp; i < group.size; i += kWarp) {
      float value = group.mean;
      if (group.depth > 0) {
        value = MulRounded(group.scale, group.Level(i));
        if (view.mean != nullptr) value = AddRounded(value, group.mean);
      }
      w[row * view.N + view.members[group.begin + i]] = FromFloat<T>(value);
    }
  }
}

}  // namespace

std::shared_ptr<CudaPackedWeight> MakePackedRows(Device& device, const PackedMatrix& matrix,
                                                 DType compute) {
  auto weight = std::make_shared<PackedRows>();
  const RowLayout layout = LayOutRows(matrix);
  weight->rows = weight->stored_rows = matrix.rows;
  weight->columns = matrix.columns;
  weight->compute = compute;
  RowsView& view = weight->view;
  auto next = std::begin(weight->memory);
  const auto upload = [&]<typename T>(const std::vector<T>& values) -> const T* {
    *next = Upload(device, values);
    return device.failed() ? nullptr : reinterpret_cast<const T*>(DeviceBytes(*next++));
  };
  view.M = matrix.rows;
  view.N = matrix.columns;
  view.clusters = matrix.cluster_count();
  view.cluster_size = matrix.cluster_size;
  view.members = upload(matrix.members);
  view.row_word = upload(layout.row_word);
  view.group_word = upload(layout.group_word);
  view.depth = upload(layout.depth);
  view.scale = upload(layout.scale);
  if (!layout.mean.empty()) view.mean = upload(layout.mean);
  view.words = upload(layout.words);
  view.tables = upload(JoinTables(matrix));
  return weight;
}

void PackedRows::MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                             const Tensor& y) const {
  Launch(device, {.x = CeilDiv(rows, kPackedWarps), .y = x.shape[0]}, PackedRowsKernel, view,
         Data<float>(x), Data<float>(bias), Data<float>(y));
}

void PackedRows::UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const {
  WithComputeType(w.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(device, {.x = CeilDiv(end - begin, kPackedWarps)}, UnpackRowsKernel<T>, view, begin,
           end - begin, Data<T>(w));
  });
}

}  // namespace cvxq::cuda
