// Packed and scaled linears (packed_weight.h, scaled_weight.h).
#include <algorithm>
#include <utility>

#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/scaled_weight.h"

namespace cvxq {
namespace {

constexpr int64_t kFewRows = 8;  // of x, that are multiplied straight from the codes

// The rows [begin, end) of a scaled matrix, in w's dtype from w's first byte on.
void UnpackScaled(const CpuScaledWeight& weight, int64_t begin, int64_t end, const Tensor& w,
                  ThreadPool& pool) {
  if (w.dtype == DType::kF32) {
    UnpackToFloat(weight, begin, end, HostData<float>(w), pool);
  } else {
    UnpackToBF16(weight, begin, end, HostData<uint16_t>(w), pool);
  }
}

}  // namespace

std::shared_ptr<PackedWeight> CpuBackend::ImportPacked(const PackedMatrix& matrix, DType compute) {
  return MakeCpuPackedWeight(matrix, compute);
}

std::shared_ptr<PackedWeight> CpuBackend::ImportPacked(std::shared_ptr<const ScaledMatrix> matrix,
                                                       DType compute) {
  return std::make_shared<CpuScaledWeight>(std::move(matrix), compute, features_.level);
}

void CpuBackend::PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias,
                              Tensor y) {
  if (failed()) return;
  contract::PackedLinear(x, w, bias, y);
  if (const auto* scaled = dynamic_cast<const CpuScaledWeight*>(&w)) {
    return ScaledLinear(x, *scaled, bias, y);
  }
  if (x.shape[0] <= kFewRows) {
    PackedProduct(static_cast<const CpuPackedWeight&>(w), ConstHostData<float>(x), x.shape[0],
                  bias.empty() ? nullptr : ConstHostData<float>(bias), HostData<float>(y), pool_);
    return;
  }
  const Tensor decoded = Allocate(DType::kF32, {w.rows, w.columns});
  Unpack(w, decoded);
  Linear(x, decoded, bias, y);
}

void CpuBackend::ScaledLinear(const Tensor& x, const CpuScaledWeight& w, const Tensor& bias,
                              const Tensor& y) {
  if (x.shape[0] <= kFewRows) {
    ScaledProduct(w, ConstHostData<float>(x), x.shape[0],
                  bias.empty() ? nullptr : ConstHostData<float>(bias), HostData<float>(y), pool_);
    return;
  }
  // Slices of rows, so that a large matrix never stands decoded as a whole.
  constexpr int64_t kSliceWeights = 16 << 20, kFewestRows = 512;
  const int64_t M = w.rows, N = w.columns;
  const int64_t slice = std::min(M, std::max(kFewestRows, kSliceWeights / N));
  const Tensor operand = As(w.compute, x);
  const Tensor decoded = Allocate(w.compute, {slice, N});
  if (failed()) return;
  for (int64_t begin = 0; begin < M; begin += slice) {
    const int64_t end = std::min(M, begin + slice);
    UnpackScaled(w, begin, end, decoded, pool_);
    MultiplyRows(operand, ConstHostData<std::byte>(decoded), begin, end, bias, y);
  }
}

void CpuBackend::Unpack(const PackedWeight& packed, Tensor w) {
  if (failed()) return;
  contract::Unpack(packed, w);
  if (const auto* scaled = dynamic_cast<const CpuScaledWeight*>(&packed)) {
    return UnpackScaled(*scaled, 0, packed.rows, w, pool_);
  }
  const CpuPackedWeight& weight = static_cast<const CpuPackedWeight&>(packed);
  if (w.dtype == DType::kF32) {
    UnpackToFloat(weight, HostData<float>(w), pool_);
  } else {
    UnpackToBF16(weight, HostData<uint16_t>(w), pool_);
  }
}

}  // namespace cvxq
