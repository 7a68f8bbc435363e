// Packed linears (packed_weight.h).
#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/packed_weight.h"

namespace cvxq {

std::shared_ptr<PackedWeight> CpuBackend::ImportPacked(const PackedMatrix& matrix, DType compute) {
  return MakeCpuPackedWeight(matrix, compute);
}

void CpuBackend::PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias,
                              Tensor y) {
  if (failed()) return;
  contract::PackedLinear(x, w, bias, y);
  constexpr int64_t kFewRows = 8;
  if (x.shape[0] <= kFewRows) {
    PackedProduct(static_cast<const CpuPackedWeight&>(w), ConstHostData<float>(x), x.shape[0],
                  bias.empty() ? nullptr : ConstHostData<float>(bias), HostData<float>(y), pool_);
    return;
  }
  const Tensor decoded = Allocate(DType::kF32, {w.rows, w.columns});
  Unpack(w, decoded);
  Linear(x, decoded, bias, y);
}

void CpuBackend::Unpack(const PackedWeight& packed, Tensor w) {
  if (failed()) return;
  contract::Unpack(packed, w);
  const CpuPackedWeight& weight = static_cast<const CpuPackedWeight&>(packed);
  if (w.dtype == DType::kF32) {
    UnpackToFloat(weight, HostData<float>(w), pool_);
  } else {
    UnpackToBF16(weight, HostData<uint16_t>(w), pool_);
  }
}

}  // namespace cvxq
