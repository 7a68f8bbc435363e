// Arrays in a row in one object, each with a checksum: how intermediate results outlive a process.
//
//   bytes 0..7   "cvxqarc1"
//   arrays       u64 size in bytes, the bytes, u32 CRC-32 of the bytes
//   the end      u64 2^64 - 1
//
// Little-endian. A reader asks for the arrays in the order and with the types of the writer.
//
//   ArchiveWriter writer(std::move(object_writer));
//   CVXQ_RETURN_IF_ERROR(writer.Put(std::span<const float>(values)));
//   CVXQ_RETURN_IF_ERROR(writer.Commit());
#ifndef CVXQ_STORAGE_ARCHIVE_H_
#define CVXQ_STORAGE_ARCHIVE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "storage/object_store.h"

namespace cvxq {

// For one thread. Errors: those of ObjectWriter.
class ArchiveWriter {
 public:
  explicit ArchiveWriter(std::unique_ptr<ObjectWriter> object);

  template <typename T>
  Status Put(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    return PutBytes(std::as_bytes(values));
  }
  template <typename T>
  Status Put(const std::vector<T>& values) {
    return Put(std::span<const T>(values));
  }
  // A number by itself.
  template <typename T>
  requires std::is_arithmetic_v<T> Status Put(T value) {
    return Put(std::span<const T>(&value, 1));
  }
  // The object is there afterwards, whole and durable.
  Status Commit();

 private:
  Status PutBytes(std::span<const std::byte> bytes);
  Status Append(const void* data, size_t size);
  Status Flush();

  std::unique_ptr<ObjectWriter> object_;
  std::vector<std::byte> buffer_;
};

// For one thread. kDataLoss for whatever no writer has written, without ever asking for more memory
// than the object has bytes; else as ObjectStore::Read.
class ArchiveReader {
 public:
  // `store` outlives the reader. kNotFound where there is no such object.
  static StatusOr<std::unique_ptr<ArchiveReader>> Open(ObjectStore& store, const std::string& key);

  template <typename T>
  Status Get(std::vector<T>& values) {
    static_assert(std::is_trivially_copyable_v<T>);
    CVXQ_ASSIGN_OR_RETURN(const int64_t size, NextSize());
    if (size % static_cast<int64_t>(sizeof(T)) != 0) return Damaged("an array of another type");
    values.resize(size / sizeof(T));
    return GetBytes(std::as_writable_bytes(std::span(values)));
  }
  // An array that must have this many elements.
  template <typename T>
  Status GetExactly(std::vector<T>& values, int64_t count) {
    CVXQ_RETURN_IF_ERROR(Get(values));
    return static_cast<int64_t>(values.size()) == count ? absl::OkStatus()
                                                        : Damaged("an array of another size");
  }
  template <typename T>
  requires std::is_arithmetic_v<T> Status Get(T& value) {
    CVXQ_ASSIGN_OR_RETURN(const int64_t size, NextSize());
    if (size != sizeof(T)) return Damaged("a number of another type");
    return GetBytes(std::as_writable_bytes(std::span(&value, 1)));
  }
  // Nothing may follow.
  Status Finish();
  // The error for contents that make no sense to the caller.
  Status Damaged(const char* what) const;

 private:
  ArchiveReader(ObjectStore& store, ObjectInfo info) : store_(store), info_(std::move(info)) {}
  StatusOr<int64_t> NextSize();
  Status GetBytes(std::span<std::byte> out);
  Status Read(std::span<std::byte> out);

  ObjectStore& store_;
  const ObjectInfo info_;
  int64_t next_ = 0;  // of the object, after the buffer
  std::vector<std::byte> buffer_;
  size_t used_ = 0;  // of the buffer
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_ARCHIVE_H_
