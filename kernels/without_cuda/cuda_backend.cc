// Stands in for kernels/cuda in a build without CUDA.
#include "kernels/backend.h"

namespace cvxq {

StatusOr<std::unique_ptr<Backend>> MakeCudaBackend() {
  return absl::UnavailableError(
      "no GPU: this build is without CUDA; build the preset `cuda`, or use --backend cpu");
}

}  // namespace cvxq
