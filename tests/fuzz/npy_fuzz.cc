// Any bytes given to the reader of .npy files: refused, or an array that lies
// within them.
#include <cstdint>
#include <cstdlib>

#include "storage/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = cvxq::NpyFile::Parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  const cvxq::HostTensor &array = (*file)->array();
  if (array.bytes() < 0 || array.data < bytes.data() ||
      array.data + array.bytes() != bytes.data() + size) {
    std::abort();
  }
  return 0;
}
