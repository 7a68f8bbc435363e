// How every kernel is started:
//
//   Launch(device, RowGrid(n, d), NormKernel<float>, x, w, y, n, d);
//
// Arguments are converted to the kernel's parameters. After an error nothing is started; an empty
// grid is none.
#ifndef CVXQ_KERNELS_CUDA_LAUNCH_H_
#define CVXQ_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/contract.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/geometry.h"

namespace cvxq::cuda {

template <typename... Params>
void Launch(Device& device, const Grid& grid, void (*kernel)(Params...),
            std::type_identity_t<Params>... arguments) {
  if (device.failed() || grid.empty()) return;
  Require(grid.Launchable(), "Launch: no card takes such a grid");
  if (grid.shared_bytes > 48 << 10) {  // beyond that a kernel must say so
    device.Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(grid.shared_bytes)),
                 "preparing a kernel");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                        static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = device.stream();
  cudaLaunchAttribute early = {};
  if (grid.early && device.architecture() >= 90) {
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = 1;
  }
  device.Check(cudaLaunchKernelEx(&config, kernel, arguments...), "starting a kernel");
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_LAUNCH_H_
