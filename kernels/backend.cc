#include "kernels/backend.h"

namespace cvxq {

StatusOr<std::unique_ptr<Backend>> MakeBackend(BackendKind kind, int threads) {
  if (kind == BackendKind::kCpu) return MakeCpuBackend(threads);
  StatusOr<std::unique_ptr<Backend>> cuda = MakeCudaBackend();
  if (cuda.ok() || kind == BackendKind::kCuda) return cuda;
  return MakeCpuBackend(threads);
}

}  // namespace cvxq
