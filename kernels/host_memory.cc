#include "kernels/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/contract.h"

namespace cvxq {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kLargest = int64_t{1} << 40;  // no machine has more for one tensor

}  // namespace

std::shared_ptr<HostBuffer> HostBuffer::Allocate(int64_t bytes) {
  if (bytes < 0 || bytes > kLargest) return nullptr;
  // Large buffers ask for huge pages: a big tensor's first touch then costs a few faults instead of
  // thousands.
  const bool is_large = bytes >= 4 * kHugePage;
  const int64_t alignment = is_large ? kHugePage : kAlignment;
  const int64_t rounded = std::max(alignment, (bytes + alignment - 1) / alignment * alignment);
  void* data = std::aligned_alloc(alignment, rounded);
  if (data == nullptr) return nullptr;
  if (is_large) madvise(data, rounded, MADV_HUGEPAGE);  // a wish: failure changes nothing
  return std::shared_ptr<HostBuffer>(new HostBuffer(static_cast<std::byte*>(data), true, nullptr));
}

std::shared_ptr<HostBuffer> HostBuffer::Borrow(const HostTensor& host) {
  return std::shared_ptr<HostBuffer>(
      new HostBuffer(const_cast<std::byte*>(host.data), false, host.hold));
}

HostBuffer::~HostBuffer() {
  if (owned_) std::free(data_);
}

Tensor HostBackend::Allocate(DType dtype, Shape shape) {
  Tensor tensor{nullptr, 0, dtype, std::move(shape)};
  if (failed()) return tensor;
  tensor.buffer = HostBuffer::Allocate(tensor.bytes());
  if (tensor.buffer == nullptr) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("out of host memory: cannot allocate ", tensor.bytes(), " bytes for a tensor ",
                     tensor.shape.ToString(), " of ", std::string(Name(dtype)),
                     "; use fewer tokens at a time or a machine with more memory"));
  }
  return tensor;
}

Tensor HostBackend::Import(const HostTensor& host) {
  if (reinterpret_cast<uintptr_t>(host.data) % ByteSize(host.dtype) == 0 && host.data != nullptr) {
    return Tensor{HostBuffer::Borrow(host), 0, host.dtype, host.shape};
  }
  Tensor tensor = Allocate(host.dtype, host.shape);
  Upload(host.data, tensor);
  return tensor;
}

void HostBackend::Upload(const void* host, Tensor dst) {
  if (failed() || dst.bytes() == 0) return;
  std::memcpy(HostData<std::byte>(dst), host, dst.bytes());
}

void HostBackend::Download(const Tensor& src, void* host) {
  if (failed() || src.bytes() == 0) return;
  std::memcpy(host, ConstHostData<std::byte>(src), src.bytes());
}

void HostBackend::Fill(Tensor dst, float value) {
  if (failed()) return;
  std::fill_n(HostData<float>(dst), dst.shape.elements(), value);
}

Tensor Tensor::Rows(int64_t begin, int64_t end) const {
  Require(shape.rank() >= 1 && 0 <= begin && begin <= end && end <= shape[0], "Rows: range");
  std::vector<int64_t> extents = shape.extents();
  const int64_t row_bytes = extents[0] == 0 ? 0 : bytes() / extents[0];
  extents[0] = end - begin;
  return Tensor{buffer, offset + begin * row_bytes, dtype, Shape(std::move(extents))};
}

template <typename T>
T* HostData(const Tensor& tensor) {
  Require(!tensor.empty(), "HostData: the tensor has no memory");
  if constexpr (std::is_same_v<T, float>) {
    Require(tensor.dtype == DType::kF32, "HostData: not F32");
  } else if constexpr (!std::is_same_v<T, std::byte>) {
    Require(ByteSize(tensor.dtype) == sizeof(T) && tensor.dtype != DType::kF32,
            "HostData: another element type");
  }
  std::byte* data = static_cast<HostBuffer*>(tensor.buffer.get())->data() + tensor.offset;
  return reinterpret_cast<T*>(data);
}

template <typename T>
const T* ConstHostData(const Tensor& tensor) {
  return HostData<T>(tensor);
}

template std::byte* HostData<std::byte>(const Tensor&);
template float* HostData<float>(const Tensor&);
template uint16_t* HostData<uint16_t>(const Tensor&);
template int32_t* HostData<int32_t>(const Tensor&);
template const std::byte* ConstHostData<std::byte>(const Tensor&);
template const float* ConstHostData<float>(const Tensor&);
template const uint16_t* ConstHostData<uint16_t>(const Tensor&);
template const int32_t* ConstHostData<int32_t>(const Tensor&);

}  // namespace cvxq
