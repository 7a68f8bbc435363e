// Inside of packed matrices with partition kColumns: what their kernels are given.
#ifndef CVXQ_KERNELS_CUDA_PACKED_COLUMNS_H_
#define CVXQ_KERNELS_CUDA_PACKED_COLUMNS_H_

#include <cstdint>

#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/packed_shares.h"
#include "kernels/cuda/packed_weight.h"

namespace cvxq::cuda {

// In shared memory a product looks values of codes up that are too deep for octets; each lane has a
// copy in the bank of its own.
constexpr int TableBytes(int depth) { return (4 * kWarp) << depth; }

// Where the tables of the depths in `depths` (bit b: depth b) stand: each at a multiple of its
// size, so that the bits of a code are or-ed to its address.
struct TablePlaces {
  int32_t of[kMaxDepth + 1] = {};  // -1: none
  int32_t bytes = 0;
  int32_t alignment = 16;  // of where they begin: the size of the largest
};
TablePlaces PlaceTables(uint32_t depths);

// A warp's shared memory in a product: a ring of kRingSlots steps on their way, and what was made
// of the step's x (packed_product.cuh).
inline constexpr int kRingSlots = 2;
inline constexpr int kStagedWords = 288;
// Of a block; one block on each multiprocessor.
inline constexpr int kMaxProductWarps = 20, kProductThreads = kMaxProductWarps * kWarp;

struct ProductPlan {
  int64_t blocks = 1;
  int warps = 0;  // of a block; 0: products are in float
  int slot_bytes = 0, ring_bytes = 0;
  int64_t shared_bytes = 0;  // of a block
};
// For the steps of a matrix whose deepest run has max_depth bits, on a card with so many
// multiprocessors and so much shared memory for a block. No warps where tables do not fit, or lines
// are wide.
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
  int field_units = 0;  // of 16 bytes, of a step
  const uint32_t* field_words = nullptr;
  const uint32_t* words = nullptr;
  const float* tables = nullptr;  // JoinTables
  TablePlaces places;             // of codes deeper than octets
  // Shares of products.
  const Piece* pieces = nullptr;
  const TileParts* parts = nullptr;
  int64_t part_count = 0;
  uint32_t* arrived = nullptr;  // [tiles] parts that are there, 0 between products
  int slot_bytes = 0, ring_bytes = 0;
};

// Levels in device memory.
struct LevelsView {
  const uint16_t* values = nullptr;  // [kTableValues]
  Levels::Octets octets[kMaxOctetDepth + 1];
  float unit[kMaxDepth + 1] = {};
};

struct PackedColumns : public CudaPackedWeight {
  int strips = 1;
  ProductPlan plan;
  ColumnsView view;
  LevelsView integers, bf16;
  Tensor memory[13];  // what the views point to

  void MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                   const Tensor& y) const override;
  void UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const override;
  void Unpack(Device& device, const Tensor& w) const override;
};

// packed_product_one.cu: by products of integers. packed_product_few.cu: of BF16.
// packed_product_float.cu: in float.
void MultiplyColumnsOne(Device& device, const PackedColumns& weight, const Tensor& x,
                        const Tensor& bias, const Tensor& y);
void MultiplyColumnsFew(Device& device, const PackedColumns& weight, const Tensor& x,
                        const Tensor& bias, const Tensor& y);
void MultiplyColumnsFloat(Device& device, const PackedColumns& weight, const Tensor& x,
                          const Tensor& bias, const Tensor& y);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_COLUMNS_H_
