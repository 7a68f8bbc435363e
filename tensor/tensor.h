// Shapes, and views of tensors in host memory. Device tensors are in kernels/backend.h.
#ifndef CVXQ_TENSOR_TENSOR_H_
#define CVXQ_TENSOR_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace cvxq {

// Row-major extents; rank 0 is a scalar with one element.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : extents_(extents) {}
  explicit Shape(std::vector<int64_t> extents) : extents_(std::move(extents)) {}

  int rank() const { return static_cast<int>(extents_.size()); }
  int64_t operator[](int axis) const { return extents_[axis]; }
  const std::vector<int64_t>& extents() const { return extents_; }
  int64_t elements() const {
    int64_t product = 1;
    for (int64_t extent : extents_) product *= extent;
    return product;
  }
  std::string ToString() const;  // "[4096, 128]"
  bool operator==(const Shape&) const = default;

 private:
  std::vector<int64_t> extents_;
};

// What a tensor is, without its elements.
struct TensorInfo {
  DType dtype = DType::kF32;
  Shape shape;

  int64_t bytes() const { return shape.elements() * ByteSize(dtype); }
};

// A contiguous row-major tensor in host memory that somebody else owns. The data may be at any
// alignment (safetensors allows it): read elements through memcpy or the helpers below.
struct HostTensor : TensorInfo {
  const std::byte* data = nullptr;
  // Where the data need not stay by itself (a local copy of a remote object): stays for as long as
  // this lives.
  std::shared_ptr<const void> hold = nullptr;
};

// Copies a F32, F16 or BF16 tensor as floats; kUnimplemented for any other type.
StatusOr<std::vector<float>> ToFloats(const HostTensor& tensor);

}  // namespace cvxq

#endif  // CVXQ_TENSOR_TENSOR_H_
