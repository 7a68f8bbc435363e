// Elements of a tensor in host memory as numbers, whatever their dtype. Slow and plain.
#ifndef CVXQ_KERNELS_REFERENCE_ELEMENTS_H_
#define CVXQ_KERNELS_REFERENCE_ELEMENTS_H_

#include <cstdint>

#include "kernels/backend.h"

namespace cvxq::reference {

class Elements {
 public:
  explicit Elements(const Tensor& tensor)
      : dtype_(tensor.dtype), data_(tensor.empty() ? nullptr : HostData<std::byte>(tensor)) {}

  bool empty() const { return data_ == nullptr; }

  double operator[](int64_t i) const {
    if (dtype_ == DType::kF32) return reinterpret_cast<const float*>(data_)[i];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(data_)[i];
    return dtype_ == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
  }

  // Rounds to float, then to the dtype of the tensor.
  void Set(int64_t i, double value) {
    const float rounded = static_cast<float>(value);
    if (dtype_ == DType::kF32) {
      reinterpret_cast<float*>(data_)[i] = rounded;
    } else {
      reinterpret_cast<uint16_t*>(data_)[i] =
          dtype_ == DType::kBF16 ? FloatToBF16(rounded) : FloatToF16(rounded);
    }
  }
  void Add(int64_t i, double value) { Set(i, (*this)[i] + value); }

 private:
  DType dtype_;
  std::byte* data_;
};

}  // namespace cvxq::reference

#endif  // CVXQ_KERNELS_REFERENCE_ELEMENTS_H_
