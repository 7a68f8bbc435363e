// Reading GGUF, the container of llama.cpp (version 3; 2 has the same bytes).
//
//   "GGUF", u32 version, u64 tensors, u64 key-value pairs
//   pairs:    key, u32 type, value             string: u64 bytes, UTF-8
//                                              array: u32 element type, u64 count, elements
//   tensors:  name, u32 rank, u64 extents (innermost first), u32 type, u64 offset
//   zeros up to a multiple of general.alignment (32); from there offsets count
//   the tensors' bytes in the order of their listing, each with zeros up to that multiple
//
// All numbers are little-endian.
#ifndef CVXQ_FORMATS_GGUF_FILE_H_
#define CVXQ_FORMATS_GGUF_FILE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/gguf_value.h"
#include "storage/mapped_file.h"
#include "tensor/tensor.h"

namespace cvxq {

struct GgufTensor {
  Shape shape;  // row-major, as everywhere here: outermost first
  uint32_t type = 0;
  std::span<const std::byte> bytes;
};

// One file or a split set. Immutable and safe to read from any thread; the views it gives are
// valid as long as it lives. What llama.cpp refuses is refused, with kDataLoss, the path and the
// reason: anything that lies beyond the file, overlaps, comes twice or is out of order. Memory
// grows with what is read, never with what a count claims.
class GgufFile {
 public:
  // `path` is a file, or any file of a set NAME-00001-of-0000N.gguf, which lies beside it. Errors
  // of the system; kNotFound names a part that is missing.
  static StatusOr<std::shared_ptr<const GgufFile>> Open(const std::string& path);
  // One file in memory that outlives the result; `path` is for messages.
  static StatusOr<std::shared_ptr<const GgufFile>> Parse(std::span<const std::byte> bytes,
                                                         std::string path);

  const std::string& path() const { return path_; }
  // Of the set's first file. nullptr if absent.
  const GgufValue* Find(const std::string& key) const;
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* FindTensor(const std::string& name) const;  // nullptr if absent
  int64_t file_bytes() const { return file_bytes_; }            // of all files
  // The tensor's pages are not needed for now.
  void Release(const GgufTensor& tensor) const;

 private:
  GgufFile() = default;
  Status Read(std::span<const std::byte> bytes);
  Status Join(std::vector<std::shared_ptr<const GgufFile>> parts);

  std::string path_;
  std::unique_ptr<const MappedFile> map_;
  std::vector<std::shared_ptr<const GgufFile>> parts_;  // of a set, without the first
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, GgufTensor> tensors_;
  int64_t file_bytes_ = 0;
};

// NAME-00002-of-00005.gguf for index 1 of 5; NAME.gguf for one file alone.
std::string GgufFileName(const std::string& name, int64_t index, int64_t count);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_FILE_H_
