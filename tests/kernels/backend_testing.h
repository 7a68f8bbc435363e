// Tensors with reproducible contents, for the tests of backends.
#ifndef CVXQ_TESTS_KERNELS_BACKEND_TESTING_H_
#define CVXQ_TESTS_KERNELS_BACKEND_TESTING_H_

#include <cstdint>
#include <vector>

#include "base/random.h"
#include "kernels/backend.h"

namespace cvxq {

// Numbers in [-scale, scale); the same for the same seed.
inline std::vector<float> Numbers(int64_t count, uint64_t seed, float scale = 1) {
  std::vector<float> out(count);
  for (int64_t i = 0; i < count; ++i) out[i] = scale * (2 * RandomUniform(seed, i) - 1);
  return out;
}

inline Tensor MakeTensor(Backend& backend, DType dtype, const Shape& shape,
                         const std::vector<float>& values) {
  Tensor tensor = backend.Allocate(dtype, shape);
  if (dtype == DType::kF32) {
    backend.Upload(values.data(), tensor);
    return tensor;
  }
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = dtype == DType::kBF16 ? FloatToBF16(values[i]) : FloatToF16(values[i]);
  }
  backend.Upload(bits.data(), tensor);
  return tensor;
}

inline Tensor RandomTensor(Backend& backend, DType dtype, const Shape& shape, uint64_t seed,
                           float scale = 1) {
  return MakeTensor(backend, dtype, shape, Numbers(shape.elements(), seed, scale));
}

inline Tensor IntTensor(Backend& backend, const std::vector<int32_t>& values) {
  Tensor tensor = backend.Allocate(DType::kI32, {static_cast<int64_t>(values.size())});
  backend.Upload(values.data(), tensor);
  return tensor;
}

// The tensor's elements, whatever its float type.
inline std::vector<float> Values(Backend& backend, const Tensor& tensor) {
  std::vector<float> out(tensor.shape.elements());
  if (tensor.dtype == DType::kF32) {
    backend.Download(tensor, out.data());
    return out;
  }
  std::vector<uint16_t> bits(out.size());
  backend.Download(tensor, bits.data());
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = tensor.dtype == DType::kBF16 ? BF16ToFloat(bits[i]) : F16ToFloat(bits[i]);
  }
  return out;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_KERNELS_BACKEND_TESTING_H_
