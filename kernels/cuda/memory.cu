// The backend itself, and the operations that only move or convert elements.
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/vectors.cuh"

namespace cvxq {
namespace cuda {
namespace {

// y = value.
struct Constant {
  float* y;
  float value;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    Vector<float, kWidth> values;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = value;
    Store(y + i, values);
  }
};

// y = x, rounded.
template <typename From, typename To>
struct Conversion {
  const From* x;
  To* y;

  template <int kWidth>
  __device__ void At(int64_t i) const {
    Store(y + i, Load<kWidth>(x + i));
  }
};

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
  const Constant body{Data<float>(dst), value};
  ForEach(*device_, dst.shape.elements(), body, Aligned(body.y));
}

Status CudaBackend::Synchronize() { return device_->Synchronize(); }

void CudaBackend::Convert(const Tensor& src, Tensor dst) {
  if (failed()) return;
  contract::Convert(src, dst);
  WithFloatType(src.dtype, [&](auto from) {
    WithFloatType(dst.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      if constexpr (std::is_same_v<From, To>) {
        device_->Copy(DeviceBytes(src), DeviceBytes(dst), src.bytes());
      } else {
        const Conversion<From, To> body{Data<From>(src), Data<To>(dst)};
        ForEach(*device_, src.shape.elements(), body, Aligned(body.x, body.y));
      }
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
