// What the backends in host memory (reference, cpu) share: buffers, and the operations that only
// move bytes.
#ifndef CVXQ_KERNELS_HOST_MEMORY_H_
#define CVXQ_KERNELS_HOST_MEMORY_H_

#include <cstddef>

#include "kernels/backend.h"

namespace cvxq {

// Bytes in host memory: its own, aligned to a cache line, or borrowed from a HostTensor.
class HostBuffer : public Buffer {
 public:
  // Null where the memory cannot be had.
  static std::shared_ptr<HostBuffer> Allocate(int64_t bytes);
  // Of a tensor that the caller, or the tensor's hold, keeps alive. Nobody writes to it.
  static std::shared_ptr<HostBuffer> Borrow(const HostTensor& host);
  ~HostBuffer() override;

  std::byte* data() const { return data_; }

 private:
  HostBuffer(std::byte* data, bool owned, std::shared_ptr<const void> hold)
      : data_(data), owned_(owned), hold_(std::move(hold)) {}

  std::byte* const data_;
  const bool owned_;
  const std::shared_ptr<const void> hold_;
};

// The memory operations. After the first error every operation does nothing, since its operands
// may lack memory; so each starts with `if (failed()) return;`.
class HostBackend : public Backend {
 public:
  Tensor Allocate(DType dtype, Shape shape) final;
  Tensor Import(const HostTensor& host) final;
  void Upload(const void* host, Tensor dst) final;
  void Download(const Tensor& src, void* host) final;
  void Fill(Tensor dst, float value) final;
  Status Synchronize() final { return status_; }

 protected:
  bool failed() const { return !status_.ok(); }

 private:
  Status status_;
};

}  // namespace cvxq

#endif  // CVXQ_KERNELS_HOST_MEMORY_H_
