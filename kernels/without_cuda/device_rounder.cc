// Stands in for kernels/cuda in a build without CUDA.
#include "kernels/device_rounder.h"

namespace cvxq {

std::unique_ptr<DeviceRounder> MakeDeviceRounder(Backend&) { return nullptr; }

}  // namespace cvxq
