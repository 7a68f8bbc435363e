// Writing GGUF files (gguf_file.h draws the bytes), version 3.
#ifndef CVXQ_FORMATS_GGUF_WRITER_H_
#define CVXQ_FORMATS_GGUF_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/gguf_value.h"
#include "tensor/tensor.h"

namespace cvxq {

class AtomicFile;

// Key-value pairs in the order of their adding, as the bytes of the file. No key comes twice.
class GgufMetadata {
 public:
  void U16(const std::string& key, uint16_t value);
  void U32(const std::string& key, uint32_t value);
  void I32(const std::string& key, int32_t value);
  void F32(const std::string& key, float value);
  void Bool(const std::string& key, bool value);
  void String(const std::string& key, std::string_view value);
  void Strings(const std::string& key, const std::vector<std::string>& values);
  void I32s(const std::string& key, const std::vector<int32_t>& values);
  void F32s(const std::string& key, const std::vector<float>& values);

  // All pairs of another.
  void Append(const GgufMetadata& more);

  const std::string& bytes() const { return bytes_; }
  int64_t count() const { return count_; }

 private:
  void Key(const std::string& key, GgufType type);
  void Array(const std::string& key, GgufType type, uint64_t count);

  std::string bytes_;
  int64_t count_ = 0;
};

// A tensor to be written.
struct GgufEntry {
  std::string name;
  Shape shape;  // row-major, outermost first
  uint32_t type = 0;
  int64_t bytes() const;  // without padding
};

// Size in bytes of the file that GgufWriter makes of so many bytes of metadata and these tensors.
int64_t GgufFileSize(int64_t metadata_bytes, const std::vector<GgufEntry>& entries);

// Writes one file as a stream: declare all tensors, then append their bytes in the same order.
// Nothing is visible under `path` before Finish, which checks that all bytes came, fsyncs and
// renames; a writer that goes without removes what it wrote.
class GgufWriter {
 public:
  // kInvalidArgument for a name that is too long for llama.cpp or comes twice, and for rows that
  // do not divide into the type's blocks.
  static StatusOr<std::unique_ptr<GgufWriter>> Create(const std::string& path,
                                                      const GgufMetadata& metadata,
                                                      std::vector<GgufEntry> entries);
  ~GgufWriter();

  // The next bytes of the tensor at hand; a tensor may come in several pieces, a piece belongs to
  // one tensor.
  Status Append(std::span<const std::byte> bytes);
  Status Finish();

 private:
  GgufWriter() = default;
  Status Pad();

  std::string path_;
  std::unique_ptr<AtomicFile> file_;
  std::vector<GgufEntry> entries_;
  size_t next_ = 0;      // the tensor at hand
  int64_t written_ = 0;  // of its bytes
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_WRITER_H_
