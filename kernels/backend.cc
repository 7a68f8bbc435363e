#include "kernels/backend.h"

namespace cvxq {

Numerics NumericsOf(const Backend& backend) {
  return {backend.name(), backend.numerics_class(), backend.fast_bf16()};
}

StatusOr<std::unique_ptr<Backend>> MakeBackend(BackendKind kind, int threads) {
  if (kind == BackendKind::kCpu) return MakeCpuBackend(threads);
  StatusOr<std::unique_ptr<Backend>> cuda = MakeCudaBackend();
  if (cuda.ok() || kind == BackendKind::kCuda) return cuda;
  return MakeCpuBackend(threads);
}

}  // namespace cvxq
