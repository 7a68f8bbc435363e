#include "kernels/reference/reference_backend.h"

#include "kernels/contract.h"
#include "kernels/reference/elements.h"

namespace cvxq {

std::unique_ptr<Backend> MakeReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

std::string ReferenceBackend::name() const { return "reference"; }
std::string ReferenceBackend::numerics_class() const { return "reference"; }
bool ReferenceBackend::fast_bf16() const { return false; }

void ReferenceBackend::Convert(const Tensor& src, Tensor dst) {
  if (failed()) return;
  contract::Convert(src, dst);
  const reference::Elements from(src);
  reference::Elements to(dst);
  for (int64_t i = 0; i < src.shape.elements(); ++i) to.Set(i, from[i]);
}

}  // namespace cvxq
