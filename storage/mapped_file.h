// A local file as memory.
#ifndef CVXQ_STORAGE_MAPPED_FILE_H_
#define CVXQ_STORAGE_MAPPED_FILE_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace cvxq {

// Immutable; every member may be called from any thread. (Who cuts the file short while it is
// mapped gets a SIGBUS from the system.)
class MappedFile {
 public:
  // kNotFound, kPermissionDenied; kFailedPrecondition for what is no regular file, with `kind` ("a
  // safetensors file") as what to name instead.
  static StatusOr<std::unique_ptr<const MappedFile>> Open(const std::string& path,
                                                          const std::string& kind);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  // Tells the system that the pages of a part of bytes() are not needed for now (they may be read
  // again).
  void Release(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  std::span<const std::byte> bytes_;
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_MAPPED_FILE_H_
