// Reading and writing safetensors files.
//
//   CVXQ_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open("model.safetensors"));
//   const HostTensor* w = file->Find("lm_head.weight");
//
//   bytes 0..7     header size H, u64 little-endian, at most 100,000,000
//   bytes 8..8+H   JSON {"name": {"dtype","shape","data_offsets":[begin,end]}, "__metadata__": {..}},
//                  padded with spaces; offsets count from byte 8+H
//   the rest       the tensors' bytes, without gaps or overlaps, to the end of the file
#ifndef CVXQ_STORAGE_SAFETENSORS_H_
#define CVXQ_STORAGE_SAFETENSORS_H_

#include <cstdio>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

namespace cvxq {

// A memory-mapped file. Immutable and safe to read from any thread; the views it gives are valid
// as long as it lives. A file whose header lies in any way is refused with kDataLoss.
class SafetensorsFile {
 public:
  static StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);
  // Parses bytes in memory, which must outlive the result; `path` is for messages.
  static StatusOr<std::shared_ptr<const SafetensorsFile>> Parse(std::span<const std::byte> bytes,
                                                                std::string path);
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const std::map<std::string, HostTensor>& tensors() const { return tensors_; }
  const HostTensor* Find(const std::string& name) const;  // nullptr if absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Tells the system that the pages of this tensor are not needed for now (they may be read again).
  void Release(const HostTensor& tensor) const;

 private:
  SafetensorsFile() = default;
  std::string path_;
  std::span<const std::byte> bytes_;
  bool mapped_ = false;
  std::map<std::string, HostTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Name, type and shape of a tensor to be written.
struct TensorEntry {
  std::string name;
  DType dtype;
  Shape shape;
};

// Writes one file as a stream, so that a large model never lies in memory: declare all tensors,
// then append their bytes in the same order. The data section starts at a multiple of 64 bytes.
// Nothing is visible as a whole file before Finish (which checks that all bytes came and fsyncs).
class SafetensorsWriter {
 public:
  static StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<TensorEntry> entries,
      const std::map<std::string, std::string>& metadata);
  ~SafetensorsWriter();

  // The next bytes of the data section; a tensor may come in several pieces.
  Status Append(std::span<const std::byte> bytes);
  Status Finish();

 private:
  SafetensorsWriter() = default;
  std::string path_;
  int fd_ = -1;
  int64_t expected_ = 0, written_ = 0;
};

// Size in bytes of the file that SafetensorsWriter makes from these entries.
int64_t SafetensorsFileSize(const std::vector<TensorEntry>& entries,
                            const std::map<std::string, std::string>& metadata);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_SAFETENSORS_H_
