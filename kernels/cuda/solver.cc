#include "kernels/cuda/solver.h"

#include <cusolverDn.h>

#include <vector>

#include "absl/strings/str_cat.h"

namespace cvxq::cuda {
namespace {

class CusolverSolver : public Solver {
 public:
  explicit CusolverSolver(Device& device) : device_(device) {}
  ~CusolverSolver() override {
    if (parameters_ != nullptr) cusolverDnDestroyParams(parameters_);
    if (handle_ != nullptr) cusolverDnDestroy(handle_);
  }

  bool Open() {
    return Check(cusolverDnCreate(&handle_)) && Check(cusolverDnCreateParams(&parameters_)) &&
           Check(cusolverDnSetStream(handle_, device_.stream())) &&
           Check(cusolverDnSetDeterministicMode(handle_, CUSOLVER_DETERMINISTIC_RESULTS));
  }

  void Cholesky(float* a, int64_t n, int32_t* info) override {
    if (device_.failed() || n == 0) return;
    constexpr cudaDataType kType = CUDA_R_32F;
    // The lower triangle by rows is the upper one by columns.
    constexpr cublasFillMode_t kTriangle = CUBLAS_FILL_MODE_UPPER;
    size_t device_bytes = 0, host_bytes = 0;
    if (!Check(cusolverDnXpotrf_bufferSize(handle_, parameters_, kTriangle, n, kType, a, n, kType,
                                           &device_bytes, &host_bytes))) {
      return;
    }
    const Tensor work = device_.Scratch(DType::kU8, {static_cast<int64_t>(device_bytes)});
    // The library may read it until the work is done.
    if (host_bytes > host_.size()) {
      if (!device_.Synchronize().ok()) return;
      host_.resize(host_bytes);
    }
    if (device_.failed()) return;
    Check(cusolverDnXpotrf(handle_, parameters_, kTriangle, n, kType, a, n, kType,
                           DeviceBytes(work), device_bytes, host_.data(), host_bytes, info));
  }

 private:
  bool Check(cusolverStatus_t status) {
    if (status == CUSOLVER_STATUS_SUCCESS) return true;
    device_.Fail(absl::InternalError(absl::StrCat("the GPU ", device_.name(),
                                                  " failed while factoring: cuSOLVER status ",
                                                  static_cast<int>(status))));
    return false;
  }

  Device& device_;
  cusolverDnHandle_t handle_ = nullptr;
  cusolverDnParams_t parameters_ = nullptr;
  std::vector<std::byte> host_;
};

}  // namespace

StatusOr<std::unique_ptr<Solver>> Solver::Make(Device& device) {
  auto solver = std::make_unique<CusolverSolver>(device);
  solver->Open();
  CVXQ_RETURN_IF_ERROR(device.Synchronize());
  return solver;
}

}  // namespace cvxq::cuda
