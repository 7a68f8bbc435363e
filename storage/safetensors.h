// Reading and writing safetensors files.
//
//   CVXQ_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open("model.safetensors"));
//   const HostTensor* w = file->Find("lm_head.weight");
//
//   bytes 0..7     header size H, u64 little-endian, at most 100,000,000
//   bytes 8..8+H   JSON {"name": {"dtype","shape","data_offsets":[begin,end]}, "__metadata__":
//   {..}},
//                  padded with spaces; offsets count from byte 8+H
//   the rest       the tensors' bytes, without gaps or overlaps, to the end of the file
#ifndef CVXQ_STORAGE_SAFETENSORS_H_
#define CVXQ_STORAGE_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

namespace cvxq {

class AtomicFile;
class MappedFile;
class ObjectMap;

// A memory-mapped file. Immutable and safe to read from any thread; the views it gives are valid
// as long as it lives. A file whose header lies in any way is refused with kDataLoss. (Who cuts the
// file short while it is mapped gets a SIGBUS from the system.)
class SafetensorsFile {
 public:
  static StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);
  // Parses bytes in memory, which must outlive the result; `path` is for messages.
  static StatusOr<std::shared_ptr<const SafetensorsFile>> Parse(std::span<const std::byte> bytes,
                                                                std::string path);
  // An object in a bucket: the header is read now, tensors when they are loaded.
  static StatusOr<std::shared_ptr<const SafetensorsFile>> Open(std::shared_ptr<ObjectMap> object);
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  // Of an object without data: see Load.
  const std::map<std::string, HostTensor>& tensors() const { return tensors_; }
  const HostTensor* Find(const std::string& name) const;  // nullptr if absent
  // One of tensors() with its data; for an object they are read if they are not here, as
  // ObjectMap::Load, and stay for as long as the result's `hold` lives.
  StatusOr<HostTensor> Load(const std::string& name) const;
  // Tensors of a type that DType lacks, by name with the type's name ("F8_E5M2"). They are checked
  // like the others but cannot be read.
  const std::map<std::string, std::string>& unsupported() const { return unsupported_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  int64_t data_bytes() const { return data_bytes_; }  // of all tensors
  // Tells the system that the pages of this tensor are not needed for now (they may be read again).
  void Release(const std::string& name) const;

 private:
  SafetensorsFile() = default;
  Status ReadHeader();                        // of bytes_ or object_; fills what follows
  Status Need(int64_t offset, int64_t size);  // these are in bytes_ afterwards

  std::string path_;
  std::span<const std::byte> bytes_;
  std::unique_ptr<const MappedFile> map_;
  std::shared_ptr<ObjectMap> object_;
  std::vector<std::shared_ptr<const void>> header_holds_;
  std::map<std::string, int64_t> offsets_;  // of tensors in the object
  std::map<std::string, HostTensor> tensors_;
  std::map<std::string, std::string> unsupported_, metadata_;
  int64_t data_bytes_ = 0;
};

// Name, type and shape of a tensor to be written.
struct TensorEntry {
  std::string name;
  DType dtype;
  Shape shape;
};

// Writes one file as a stream, so that a large model never lies in memory: declare all tensors,
// then append their bytes in the same order. The data section starts at a multiple of 64 bytes.
// Nothing is visible under `path` before Finish (which checks that all bytes came, fsyncs and
// renames); a writer that goes without Finish removes what it wrote. A full disk is
// kResourceExhausted and names the file.
class SafetensorsWriter {
 public:
  // kInvalidArgument for a name that comes twice or is no UTF-8, or an impossible shape.
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
  std::unique_ptr<AtomicFile> file_;
  int64_t expected_ = 0, written_ = 0;
};

// Size in bytes of the file that SafetensorsWriter makes from these (valid) entries.
int64_t SafetensorsFileSize(const std::vector<TensorEntry>& entries,
                            const std::map<std::string, std::string>& metadata);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_SAFETENSORS_H_
