// Inside of packed matrices with partition kColumns: what their kernels are given.
#ifndef CVXQ_KERNELS_CUDA_PACKED_COLUMNS_H_
#define CVXQ_KERNELS_CUDA_PACKED_COLUMNS_H_

#include <cstdint>

#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/packed_shares.h"
#include "kernels/cuda/packed_weight.h"

namespace cvxq::cuda {

// In shared memory a product looks values of tables up as BF16: both of two neighbouring lines at
// once where a table of pairs is small enough. Each lane has a copy in the bank of its own.
inline constexpr int kMaxPairDepth = 4;
constexpr int LookUpBits(int depth) { return depth <= kMaxPairDepth ? 2 * depth : depth; }
constexpr int TableBytes(int depth) { return (4 * kWarp) << LookUpBits(depth); }

// Where the tables of the depths in `depths` (bit b: depth b) stand: each at a multiple of its
// size, so that the bits of a code are or-ed to its address.
struct TablePlaces {
  int32_t of[kMaxDepth + 1] = {};  // -1: none
  int32_t bytes = 0;
  int32_t alignment = 16;  // of where they begin: the size of the largest
};
TablePlaces PlaceTables(uint32_t depths);

// A warp's shared memory in a product: a ring of kRingSlots steps on their way, and the step's x.
inline constexpr int kRingSlots = 3;
inline constexpr int kMaxProductWarps = 24;  // of a block; one block on each multiprocessor

struct ProductPlan {
  int64_t blocks = 1;
  int warps = 0;  // of a block; 0: the tables do not fit, so that products are in float
  int slot_bytes = 0, ring_bytes = 0;
  int64_t shared_bytes = 0;  // of a block
};
// For the steps of a matrix whose deepest run has max_depth bits, on a card with so many
// multiprocessors and so much shared memory for a block.
ProductPlan PlanProduct(int64_t steps, int strips, int max_depth, StepFields fields,
                        const TablePlaces& tables, int multiprocessors, int64_t shared_limit);

// ColumnLayout in device memory.
struct ColumnsView {
  int64_t M = 0, N = 0, tiles = 0;
  const int32_t* rows = nullptr;
  const int32_t* tile_cluster = nullptr;
  const int64_t* tile_word = nullptr;
  const LineCounts* counts = nullptr;
  const int64_t* first_position = nullptr;
  StepFields fields;
  const uint32_t* field_words = nullptr;
  const uint32_t* words = nullptr;
  const float* tables = nullptr;  // JoinTables
  TablePlaces places;
  // Shares of products.
  const Piece* pieces = nullptr;
  const TileParts* parts = nullptr;
  int64_t part_count = 0;
  uint32_t* arrived = nullptr;  // [tiles] parts that are there, 0 between products
  int slot_bytes = 0, ring_bytes = 0;
};

struct PackedColumns : public CudaPackedWeight {
  int strips = 1;
  ProductPlan plan;
  ColumnsView view;
  Tensor memory[11];  // what the view points to

  void MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                   const Tensor& y) const override;
  void UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const override;
  void Unpack(Device& device, const Tensor& w) const override;
};

// packed_product.cu: with tensor cores. packed_product_float.cu: in float.
void MultiplyColumnsBF16(Device& device, const PackedColumns& weight, const Tensor& x,
                         const Tensor& bias, const Tensor& y);
void MultiplyColumnsFloat(Device& device, const PackedColumns& weight, const Tensor& x,
                          const Tensor& bias, const Tensor& y);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_COLUMNS_H_
