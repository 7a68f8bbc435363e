// One GPU: its memory, its stream, copies through pinned memory, and the first error.
//
// Everything is enqueued on one stream, in the order of the calls. Memory comes from the driver's
// pool for that stream, so that a buffer freed here is reused by later work without waiting. Used
// from one thread at a time.
#ifndef CVXQ_KERNELS_CUDA_DEVICE_H_
#define CVXQ_KERNELS_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/geometry.h"

namespace cvxq::cuda {

class Device;

// Device memory; freed in the order of the stream.
class DeviceBuffer : public Buffer {
 public:
  DeviceBuffer(std::shared_ptr<Device> device, std::byte* data)
      : device_(std::move(device)), data_(data) {}
  ~DeviceBuffer() override;

  std::byte* data() const { return data_; }

 private:
  const std::shared_ptr<Device> device_;
  std::byte* const data_;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  // The first GPU that CUDA_VISIBLE_DEVICES leaves. kUnavailable with one line where there is no
  // driver, no GPU, or one that is too old.
  static StatusOr<std::shared_ptr<Device>> Open();
  ~Device();

  const std::string& name() const { return name_; }   // "NVIDIA H200"
  int architecture() const { return architecture_; }  // 90 for compute capability 9.0
  int multiprocessors() const { return multiprocessors_; }
  // The most that a block may ask for.
  int64_t shared_bytes_of_a_block() const { return shared_bytes_of_a_block_; }
  cudaStream_t stream() const { return stream_; }

  // Uninitialised; null, and an error kept, where it cannot be had.
  std::shared_ptr<DeviceBuffer> Allocate(int64_t bytes);
  // As a tensor for work within an operation.
  Tensor Scratch(DType dtype, Shape shape);
  // The same for operations that are too short for an allocation: memory that is kept, and whose
  // contents are lost with the next call. Null after an error.
  std::byte* Workspace(int64_t bytes);

  // To the device; `host` is free on return.
  void Upload(const void* host, std::byte* device, int64_t bytes);
  // From the device; waits.
  void Download(const std::byte* device, void* host, int64_t bytes);
  // Within the device; the two do not overlap, unless they are the same.
  void Copy(const std::byte* from, std::byte* to, int64_t bytes);
  void Clear(std::byte* device, int64_t bytes);

  // Waits for all work. The first error so far.
  Status Synchronize();

  bool failed() const { return !status_.ok(); }
  // Keeps the first error; `doing` completes "the GPU failed while ...".
  void Check(cudaError_t error, const char* doing);
  void Fail(Status status);

 private:
  // One of two halves of the pinned memory, and when the device has read it.
  struct Staging {
    std::byte* host = nullptr;
    cudaEvent_t read = nullptr;
  };

  Device() = default;

  void* AllocateBytes(int64_t bytes);

  std::string name_;
  int architecture_ = 0, multiprocessors_ = 0;
  int64_t shared_bytes_of_a_block_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  Staging staging_[2];
  int next_staging_ = 0;
  void* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  Status status_;
};

// Data<T> of elements.cuh for any tensor of a Device.
std::byte* DeviceBytes(const Tensor& tensor);

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_DEVICE_H_
