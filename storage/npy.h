// Reading token ids from NumPy's .npy files.
//
//   bytes 0..5    "\x93NUMPY"
//   bytes 6..7    version: 1.0, 2.0 or 3.0
//   then          header size H: u16 (version 1) or u32 (versions 2 and 3), little-endian
//   then          H bytes, a Python dictionary, padded with spaces, a newline at the end:
//                 {'descr': '<i4', 'fortran_order': False, 'shape': (64, 2048), }
//   the rest      the elements, row-major, to the end of the file
#ifndef CVXQ_STORAGE_NPY_H_
#define CVXQ_STORAGE_NPY_H_

#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "tensor/tensor.h"

namespace cvxq {

// A memory-mapped .npy file of little-endian int32, int64, uint16 or uint32 with one or two axes.
// kUnimplemented for another element type or order, kDataLoss for a file whose header lies in any
// way. Immutable and safe to read from any thread; the view is valid as long as the file lives.
class NpyFile {
 public:
  static StatusOr<std::shared_ptr<const NpyFile>> Open(const std::string& path);
  // Parses bytes in memory, which must outlive the result; `path` is for messages.
  static StatusOr<std::shared_ptr<const NpyFile>> Parse(std::span<const std::byte> bytes,
                                                        std::string path);
  ~NpyFile();
  NpyFile(const NpyFile&) = delete;
  NpyFile& operator=(const NpyFile&) = delete;

  const HostTensor& array() const { return array_; }

 private:
  NpyFile() = default;
  static StatusOr<std::shared_ptr<NpyFile>> Read(std::span<const std::byte> bytes,
                                                 const std::string& path);

  std::span<const std::byte> bytes_;
  bool mapped_ = false;
  HostTensor array_;
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_NPY_H_
