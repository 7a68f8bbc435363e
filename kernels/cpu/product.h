// Matrix products of the CPU backend: single-threaded oneDNN on tiles of the output that are cut by
// the shapes alone, so that the result is the same for any number of threads.
#ifndef CVXQ_KERNELS_CPU_PRODUCT_H_
#define CVXQ_KERNELS_CPU_PRODUCT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vector_ops.h"
#include "tensor/dtype.h"

namespace cvxq {

// C[m,n] (float) = or += op(A)[m,k] op(B)[k,n], row-major with leading dimensions.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false;  // A is stored [k,m]
  bool transpose_b = false;  // B is stored [n,k]
  int64_t lda = 0, ldb = 0, ldc = 0;
  DType dtype = DType::kF32;  // of A and B: F32 or BF16
  bool accumulate = false;

  bool operator==(const Product&) const = default;
};

// How products are computed on this machine.
struct ProductOptions {
  bool native_bf16 = false;  // else BF16 tiles are widened and multiplied as F32
  const VectorOps* vector_ops = nullptr;
};

// Whether oneDNN multiplies BF16 faster than F32 here.
bool HasNativeBf16();

// oneDNN's version and instruction set, which decide the rounding of products:
// "onednn2.6-avx512_bf16".
const char* ProductNumerics();

// The whole product on the calling thread, by one oneDNN primitive from the thread's cache.
void Multiply(const ProductOptions& options, const Product& product, const void* a, const void* b,
              float* c);

// A piece of an output matrix.
struct Tile {
  int64_t row = 0, rows = 0, column = 0, columns = 0;
};

// The part of a product that makes the given tile; a, b and c are the whole product's pointers.
void MultiplyTile(const ProductOptions& options, const Product& product, const Tile& tile,
                  const void* a, const void* b, float* c);

// Cuts [m,n] in tiles whose size depends on m and n alone: large enough for the full speed of
// oneDNN, small enough that sixteen threads and more find work. Rows run fastest, so tiles that use
// the same columns of B come one after the other.
class TileGrid {
 public:
  TileGrid(int64_t m, int64_t n);
  TileGrid(int64_t m, int64_t n, int64_t rows, int64_t columns);

  int64_t row_tiles() const { return row_tiles_; }
  int64_t column_tiles() const { return column_tiles_; }
  int64_t count() const { return row_tiles_ * column_tiles_; }
  Tile operator[](int64_t i) const { return At(i % row_tiles_, i / row_tiles_); }
  Tile At(int64_t row_tile, int64_t column_tile) const;

 private:
  int64_t m_, n_, rows_, columns_, row_tiles_, column_tiles_;
};

// Uninitialised memory of the calling thread, 64-byte aligned, valid until the next call with the
// same slot. Slots 0 and 1 belong to Multiply, the others to the operations.
void* ThreadScratch(int slot, int64_t bytes);
inline float* FloatScratch(int slot, int64_t count) {
  return static_cast<float*>(ThreadScratch(slot, count * static_cast<int64_t>(sizeof(float))));
}

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_PRODUCT_H_
