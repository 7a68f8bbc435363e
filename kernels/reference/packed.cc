// Packed and scaled linears: the matrix is decoded at import.
#include <vector>

#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {
namespace {

struct DecodedWeight : PackedWeight {
  std::vector<float> w;  // [M, N]
};

std::shared_ptr<PackedWeight> DecodeWeight(const auto& matrix) {
  auto weight = std::make_shared<DecodedWeight>();
  weight->rows = matrix.rows;
  weight->columns = matrix.columns;
  weight->w = Decode(matrix);
  return weight;
}

}  // namespace

std::shared_ptr<PackedWeight> ReferenceBackend::ImportPacked(const PackedMatrix& matrix, DType) {
  return DecodeWeight(matrix);
}

std::shared_ptr<PackedWeight> ReferenceBackend::ImportPacked(
    std::shared_ptr<const ScaledMatrix> matrix, DType) {
  return DecodeWeight(*matrix);
}

void ReferenceBackend::PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias,
                                    Tensor y) {
  if (failed()) return;
  contract::PackedLinear(x, w, bias, y);
  Tensor decoded = Allocate(DType::kF32, {w.rows, w.columns});
  Unpack(w, decoded);
  Linear(x, decoded, bias, y);
}

void ReferenceBackend::Unpack(const PackedWeight& packed, Tensor w) {
  if (failed()) return;
  contract::Unpack(packed, w);
  const std::vector<float>& decoded = static_cast<const DecodedWeight&>(packed).w;
  reference::Elements ws(w);
  for (int64_t i = 0; i < packed.rows * packed.columns; ++i) ws.Set(i, decoded[i]);
}

}  // namespace cvxq
