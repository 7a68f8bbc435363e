#include "tensor/tensor.h"

#include <cstring>

#include "absl/strings/str_join.h"

namespace cvxq {

std::string Shape::ToString() const {
  return absl::StrCat("[", absl::StrJoin(extents_, ", "), "]");
}

StatusOr<std::vector<float>> ToFloats(const HostTensor& tensor) {
  const int64_t n = tensor.shape.elements();
  std::vector<float> out(n);
  if (tensor.dtype == DType::kF32) {
    if (n > 0) std::memcpy(out.data(), tensor.data, n * sizeof(float));
    return out;
  }
  if (tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16) {
    return absl::UnimplementedError(
        absl::StrCat("cannot read ", std::string(Name(tensor.dtype)), " as floats"));
  }
  const bool bf16 = tensor.dtype == DType::kBF16;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, tensor.data + 2 * i, 2);
    out[i] = bf16 ? BF16ToFloat(bits) : F16ToFloat(bits);
  }
  return out;
}

}  // namespace cvxq
