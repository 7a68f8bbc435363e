// The backend itself, and the operations that only move or convert elements.
#include "absl/strings/str_cat.h"
#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq {
namespace cuda {
namespace {

__global__ void FillKernel(float* y, int64_t count, float value) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = value;
  }
}

template <typename From, typename To>
__global__ void ConvertKernel(const From* x, To* y, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = FromFloat<To>(ToFloat(x[i]));
  }
}

}  // namespace

CudaBackend::CudaBackend(std::shared_ptr<Device> device, std::unique_ptr<Products> products)
    : device_(std::move(device)), products_(std::move(products)) {}

std::string CudaBackend::name() const { return "cuda"; }

std::string CudaBackend::numerics_class() const {
  return absl::StrCat("cuda-sm", device_->architecture(), "-", products_->name());
}

Tensor CudaBackend::Allocate(DType dtype, Shape shape) {
  return device_->Scratch(dtype, std::move(shape));
}

Tensor CudaBackend::Import(const HostTensor& host) {
  Tensor tensor = Allocate(host.dtype, host.shape);
  Upload(host.data, tensor);
  return tensor;
}

void CudaBackend::Upload(const void* host, Tensor dst) {
  if (!failed()) device_->Upload(host, DeviceBytes(dst), dst.bytes());
}

void CudaBackend::Download(const Tensor& src, void* host) {
  if (!failed()) device_->Download(DeviceBytes(src), host, src.bytes());
}

void CudaBackend::Fill(Tensor dst, float value) {
  if (failed()) return;
  Require(dst.dtype == DType::kF32, "Fill: not F32");
  const int64_t count = dst.shape.elements();
  Launch(*device_, ElementGrid(count), FillKernel, Data<float>(dst), count, value);
}

Status CudaBackend::Synchronize() { return device_->Synchronize(); }

void CudaBackend::Convert(const Tensor& src, Tensor dst) {
  if (failed()) return;
  contract::Convert(src, dst);
  const int64_t count = src.shape.elements();
  WithFloatType(src.dtype, [&](auto from) {
    WithFloatType(dst.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      Launch(*device_, ElementGrid(count), ConvertKernel<From, To>, Data<From>(src), Data<To>(dst),
             count);
    });
  });
}

Tensor CudaBackend::As(DType dtype, const Tensor& x) {
  if (x.dtype == dtype) return x;
  Tensor converted = Allocate(dtype, x.shape);
  Convert(x, converted);
  return converted;
}

}  // namespace cuda

StatusOr<std::unique_ptr<Backend>> MakeCudaBackend() {
  CVXQ_ASSIGN_OR_RETURN(std::shared_ptr<cuda::Device> device, cuda::Device::Open());
  CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<cuda::Products> products, cuda::Products::Make(*device));
  return std::make_unique<cuda::CudaBackend>(std::move(device), std::move(products));
}

}  // namespace cvxq
