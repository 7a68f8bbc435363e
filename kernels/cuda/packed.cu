// Packed and scaled linears.
#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"

namespace cvxq::cuda {

std::shared_ptr<PackedWeight> CudaBackend::ImportPacked(const PackedMatrix& matrix, DType) {
  auto weight = std::make_shared<PackedWeight>();
  weight->rows = matrix.rows;
  weight->columns = matrix.columns;
  return weight;
}

std::shared_ptr<PackedWeight> CudaBackend::ImportPacked(std::shared_ptr<const ScaledMatrix> matrix,
                                                        DType) {
  auto weight = std::make_shared<PackedWeight>();
  weight->rows = matrix->rows;
  weight->columns = matrix->columns;
  return weight;
}

void CudaBackend::PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias,
                               Tensor y) {
  if (failed()) return;
  contract::PackedLinear(x, w, bias, y);
  device_->Fail(absl::UnimplementedError("PackedLinear"));
}

void CudaBackend::Unpack(const PackedWeight& packed, Tensor w) {
  if (failed()) return;
  contract::Unpack(packed, w);
  device_->Fail(absl::UnimplementedError("Unpack"));
}

}  // namespace cvxq::cuda
