// Matrix products on a GPU: cuBLASLt with its choices pinned.
#ifndef CVXQ_KERNELS_CUDA_PRODUCTS_H_
#define CVXQ_KERNELS_CUDA_PRODUCTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cuda/device.h"

namespace cvxq::cuda {

// c[m, n] (float) = or += op(a)[m, k] op(b)[k, n], row-major, `batch` times at the given distances.
// Sums are in float; BF16 operands are multiplied exactly, float operands in full float (no TF32).
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const std::byte* a = nullptr;
  bool transpose_a = false;  // a is stored as [k, m]
  int64_t a_stride = 0;      // elements from row to row as stored
  const std::byte* b = nullptr;
  bool transpose_b = false;  // b is stored as [n, k]
  int64_t b_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  DType dtype = DType::kF32;  // of a and b: F32 or BF16
  bool accumulate = false;
  int64_t batch = 1;
  int64_t a_distance = 0, b_distance = 0, c_distance = 0;  // elements from one to the next
};

// Results are the same from run to run: the algorithm of a shape is the first that the library's
// heuristic names for the fixed workspace, without split sums that need atomics.
class Products {
 public:
  static StatusOr<std::unique_ptr<Products>> Make(Device& device);
  virtual ~Products() = default;

  // Enqueued; errors are kept by the device. Nothing is done where m, n or batch is 0; k = 0 makes
  // (or adds) zeros.
  virtual void Multiply(const Product& product) = 0;
  // The library and its version, a part of the numerics class.
  virtual std::string name() const = 0;
};

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PRODUCTS_H_
