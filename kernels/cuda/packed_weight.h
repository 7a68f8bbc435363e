// Packed and scaled matrices on a GPU: what CudaBackend::ImportPacked makes.
#ifndef CVXQ_KERNELS_CUDA_PACKED_WEIGHT_H_
#define CVXQ_KERNELS_CUDA_PACKED_WEIGHT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/packed_matrix.h"
#include "kernels/scaled_matrix.h"

namespace cvxq::cuda {

inline constexpr int kFewRows = 8;  // of x, that are multiplied straight from the codes

// Rows are stored in an order of their own, and some may fill up.
class CudaPackedWeight : public PackedWeight {
 public:
  DType compute = DType::kF32;  // what products may round factors to
  int64_t stored_rows = 0;
  int64_t row_step = 1;             // slices of stored rows begin at multiples of it
  const int32_t* row_of = nullptr;  // device: by stored row the row, or -1; null: the same

  // y[n,M] = x[n,N] W^T + bias (may be empty), n <= kFewRows. A row of y has the same bits in any
  // batch, but for kColumns in BF16 where it is alone.
  virtual void MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                           const Tensor& y) const = 0;
  // w[end - begin, N] = the stored rows [begin, end).
  virtual void UnpackStored(Device& device, int64_t begin, int64_t end, const Tensor& w) const = 0;
  // w[M, N] = the matrix.
  virtual void Unpack(Device& device, const Tensor& w) const {
    UnpackStored(device, 0, stored_rows, w);
  }
};

// kColumns, in tiles (packed_layout.h). With F32 all is float. With BF16 tensor cores multiply:
// values of tables and x * scale rounded to BF16, so that each such term may be off by a relative
// 2^-7 (means are exact); but one vector in integers, where values of tables are off by at most
// 2^-16 of the table's largest and x * scale by 2^-26 of the largest met.
std::shared_ptr<CudaPackedWeight> MakePackedColumns(Device& device, const PackedMatrix& matrix,
                                                    DType compute);
// kRows; products are in float.
std::shared_ptr<CudaPackedWeight> MakePackedRows(Device& device, const PackedMatrix& matrix,
                                                 DType compute);
// Products are in float.
std::shared_ptr<CudaPackedWeight> MakeScaled(Device& device, const ScaledMatrix& matrix,
                                             DType compute);

// A copy in device memory, as a tensor of bytes: Data<const T> of it are the values.
template <typename T>
Tensor Upload(Device& device, const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  Tensor tensor = device.Scratch(DType::kU8, {bytes});
  if (!device.failed()) {
    device.Upload(values.data(), DeviceBytes(tensor), bytes);
  }
  return tensor;
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_WEIGHT_H_
