// Fuzz target: any bytes as a safetensors file. What is accepted must be readable to its last byte.
#include <cstddef>
#include <cstdint>

#include "storage/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = cvxq::SafetensorsFile::Parse({reinterpret_cast<const std::byte*>(data), size},
                                                 "input.safetensors");
  if (!file.ok()) return 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    if (tensor.bytes() == 0) continue;
    [[maybe_unused]] const volatile std::byte first = tensor.data[0];
    [[maybe_unused]] const volatile std::byte last = tensor.data[tensor.bytes() - 1];
  }
  return 0;
}
