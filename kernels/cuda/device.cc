#include "kernels/cuda/device.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace cvxq::cuda {
namespace {

constexpr int64_t kStagingBytes = 16 << 20;
constexpr int64_t kLargest = int64_t{1} << 40;  // no card has more
constexpr int kOldest = 80;

}  // namespace

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) {
    device_->Check(cudaFreeAsync(data_, device_->stream()), "freeing memory");
  }
}

StatusOr<std::shared_ptr<Device>> Device::Open() {
  constexpr int kFirst = 0;
  std::shared_ptr<Device> device(new Device);
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, kFirst);
      error != cudaSuccess) {
    cudaGetLastError();  // forgets it
    return absl::UnavailableError(absl::StrCat(
        "no GPU: ", cudaGetErrorString(error),
        "; install an NVIDIA driver for CUDA 13 (nvidia-smi must work), or use --backend cpu"));
  }
  device->name_ = properties.name;
  device->architecture_ = 10 * properties.major + properties.minor;
  device->multiprocessors_ = properties.multiProcessorCount;
  device->shared_bytes_of_a_block_ = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  if (device->architecture_ < kOldest) {
    return absl::UnavailableError(
        absl::StrCat("the GPU ", device->name_, " has compute capability ", properties.major, ".",
                     properties.minor, ", and 8.0 is needed; use --backend cpu"));
  }
  device->Check(cudaStreamCreateWithFlags(&device->stream_, cudaStreamNonBlocking),
                "making a stream");
  device->Check(cudaDeviceGetDefaultMemPool(&device->pool_, kFirst), "finding its memory pool");
  uint64_t keep = std::numeric_limits<uint64_t>::max();  // freed memory stays with the process
  device->Check(cudaMemPoolSetAttribute(device->pool_, cudaMemPoolAttrReleaseThreshold, &keep),
                "setting its memory pool");
  for (Staging& staging : device->staging_) {
    device->Check(cudaMallocHost(reinterpret_cast<void**>(&staging.host), kStagingBytes),
                  "allocating pinned memory");
    device->Check(cudaEventCreateWithFlags(&staging.read, cudaEventDisableTiming),
                  "making an event");
  }
  CVXQ_RETURN_IF_ERROR(device->status_);
  return device;
}

Device::~Device() {
  if (workspace_ != nullptr) cudaFreeAsync(workspace_, stream_);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (Staging& staging : staging_) {
    if (staging.host != nullptr) cudaFreeHost(staging.host);
    if (staging.read != nullptr) cudaEventDestroy(staging.read);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void* Device::AllocateBytes(int64_t bytes) {
  if (failed()) return nullptr;
  void* data = nullptr;
  cudaError_t error = cudaErrorMemoryAllocation;
  if (bytes >= 0 && bytes <= kLargest) {
    // Whole units of 256 bytes, and never none: kernels may read full vectors at the end.
    error = cudaMallocAsync(&data, std::max<int64_t>(256, CeilDiv(bytes, 256) * 256), stream_);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    Fail(absl::ResourceExhaustedError(absl::StrCat(
        "out of GPU memory: cannot allocate ", bytes, " bytes, ", free, " of ", total,
        " are free on ", name_, "; use fewer tokens at a time or a smaller --memory")));
    return nullptr;
  }
  Check(error, "allocating memory");
  return failed() ? nullptr : data;
}

std::shared_ptr<DeviceBuffer> Device::Allocate(int64_t bytes) {
  void* data = AllocateBytes(bytes);
  if (data == nullptr) return nullptr;
  return std::make_shared<DeviceBuffer>(shared_from_this(), static_cast<std::byte*>(data));
}

Tensor Device::Scratch(DType dtype, Shape shape) {
  Tensor tensor{nullptr, 0, dtype, std::move(shape)};
  tensor.buffer = Allocate(tensor.bytes());
  return tensor;
}

std::byte* Device::Workspace(int64_t bytes) {
  if (failed()) return nullptr;
  if (bytes > workspace_bytes_) {
    if (workspace_ != nullptr) Check(cudaFreeAsync(workspace_, stream_), "freeing memory");
    workspace_ = AllocateBytes(bytes);
    workspace_bytes_ = workspace_ == nullptr ? 0 : bytes;
  }
  return static_cast<std::byte*>(workspace_);
}

void Device::Upload(const void* host, std::byte* device, int64_t bytes) {
  const auto* from = static_cast<const std::byte*>(host);
  for (int64_t done = 0; done < bytes && !failed();) {
    const int64_t size = std::min(kStagingBytes, bytes - done);
    Staging& staging = staging_[next_staging_];
    next_staging_ ^= 1;
    Check(cudaEventSynchronize(staging.read), "copying to it");
    if (failed()) return;
    std::memcpy(staging.host, from + done, size);
    Check(cudaMemcpyAsync(device + done, staging.host, size, cudaMemcpyHostToDevice, stream_),
          "copying to it");
    Check(cudaEventRecord(staging.read, stream_), "copying to it");
    done += size;
  }
}

void Device::Download(const std::byte* device, void* host, int64_t bytes) {
  auto* to = static_cast<std::byte*>(host);
  const int64_t pieces = CeilDiv(bytes, kStagingBytes);
  // A piece is copied out of one half of the pinned memory while the next comes into the other.
  for (int64_t i = 0; i <= pieces && !failed(); ++i) {
    if (i < pieces) {
      Staging& staging = staging_[i % 2];
      Check(cudaEventSynchronize(staging.read), "copying from it");
      Check(cudaMemcpyAsync(staging.host, device + i * kStagingBytes,
                            std::min(kStagingBytes, bytes - i * kStagingBytes),
                            cudaMemcpyDeviceToHost, stream_),
            "copying from it");
      Check(cudaEventRecord(staging.read, stream_), "copying from it");
    }
    if (i > 0) {
      const Staging& staging = staging_[(i - 1) % 2];
      Check(cudaEventSynchronize(staging.read), "computing");
      if (failed()) return;
      std::memcpy(to + (i - 1) * kStagingBytes, staging.host,
                  std::min(kStagingBytes, bytes - (i - 1) * kStagingBytes));
    }
  }
}

void Device::Copy(const std::byte* from, std::byte* to, int64_t bytes) {
  if (failed() || bytes == 0 || from == to) return;
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copying within it");
}

void Device::Clear(std::byte* device, int64_t bytes) {
  if (failed() || bytes == 0) return;
  Check(cudaMemsetAsync(device, 0, bytes, stream_), "clearing memory");
}

Status Device::Synchronize() {
  if (!failed()) Check(cudaStreamSynchronize(stream_), "computing");
  return status_;
}

void Device::Check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  Fail(absl::InternalError(absl::StrCat("the GPU ", name_, " failed while ", doing, ": ",
                                        cudaGetErrorString(error), " (", cudaGetErrorName(error),
                                        ")")));
}

void Device::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

std::byte* DeviceBytes(const Tensor& tensor) {
  if (tensor.empty()) return nullptr;
  return static_cast<const DeviceBuffer*>(tensor.buffer.get())->data() + tensor.offset;
}

}  // namespace cvxq::cuda
