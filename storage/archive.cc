#include "storage/archive.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr char kMagic[] = "cvxqarc1";
constexpr size_t kMagicSize = sizeof(kMagic) - 1;
constexpr size_t kBuffer = size_t{4} << 20;
constexpr uint64_t kEnd = ~uint64_t{0};

uint32_t Checksum(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

}  // namespace

ArchiveWriter::ArchiveWriter(std::unique_ptr<ObjectWriter> object) : object_(std::move(object)) {
  buffer_.resize(kMagicSize);
  std::memcpy(buffer_.data(), kMagic, kMagicSize);
}

Status ArchiveWriter::Append(const void* data, size_t size) {
  const std::byte* bytes = static_cast<const std::byte*>(data);
  if (buffer_.size() + size > kBuffer) CVXQ_RETURN_IF_ERROR(Flush());
  if (size >= kBuffer) return object_->Append({bytes, size});
  buffer_.insert(buffer_.end(), bytes, bytes + size);
  return absl::OkStatus();
}

Status ArchiveWriter::Flush() {
  CVXQ_RETURN_IF_ERROR(object_->Append(buffer_));
  buffer_.clear();
  return absl::OkStatus();
}

Status ArchiveWriter::PutBytes(std::span<const std::byte> bytes) {
  const uint64_t size = bytes.size();
  const uint32_t checksum = Checksum(bytes);
  CVXQ_RETURN_IF_ERROR(Append(&size, sizeof(size)));
  CVXQ_RETURN_IF_ERROR(Append(bytes.data(), bytes.size()));
  return Append(&checksum, sizeof(checksum));
}

Status ArchiveWriter::Commit() {
  CVXQ_RETURN_IF_ERROR(Append(&kEnd, sizeof(kEnd)));
  CVXQ_RETURN_IF_ERROR(Flush());
  return object_->Commit();
}

StatusOr<std::unique_ptr<ArchiveReader>> ArchiveReader::Open(ObjectStore& store,
                                                             const std::string& key) {
  CVXQ_ASSIGN_OR_RETURN(ObjectInfo info, store.Head(key));
  info.key = key;
  std::unique_ptr<ArchiveReader> reader(new ArchiveReader(store, std::move(info)));
  char magic[kMagicSize];
  CVXQ_RETURN_IF_ERROR(reader->Read(std::as_writable_bytes(std::span(magic))));
  if (std::memcmp(magic, kMagic, kMagicSize) != 0) return reader->Damaged("it begins otherwise");
  return reader;
}

Status ArchiveReader::Damaged(const char* what) const {
  return absl::DataLossError(
      absl::StrCat(store_.address(), "/", info_.key, " is damaged: ", what, "; remove it"));
}

Status ArchiveReader::Read(std::span<std::byte> out) {
  const size_t there = std::min(out.size(), buffer_.size() - used_);
  std::copy_n(buffer_.data() + used_, there, out.begin());
  used_ += there;
  out = out.subspan(there);
  if (out.empty()) return absl::OkStatus();
  const int64_t left = info_.size - next_;
  if (static_cast<int64_t>(out.size()) > left) return Damaged("it is cut short");
  if (out.size() >= kBuffer) {
    CVXQ_RETURN_IF_ERROR(store_.Read(info_.key, info_.etag, next_, out));
    next_ += static_cast<int64_t>(out.size());
    return absl::OkStatus();
  }
  buffer_.resize(std::min<int64_t>(kBuffer, left));
  used_ = 0;
  CVXQ_RETURN_IF_ERROR(store_.Read(info_.key, info_.etag, next_, buffer_));
  next_ += static_cast<int64_t>(buffer_.size());
  std::copy_n(buffer_.begin(), out.size(), out.begin());
  used_ = out.size();
  return absl::OkStatus();
}

StatusOr<int64_t> ArchiveReader::NextSize() {
  uint64_t size = 0;
  CVXQ_RETURN_IF_ERROR(Read(std::as_writable_bytes(std::span(&size, 1))));
  const uint64_t left = static_cast<uint64_t>(info_.size - next_) + (buffer_.size() - used_);
  if (size == kEnd) return Damaged("it ends too early");
  if (size > left) return Damaged("it is cut short");
  return static_cast<int64_t>(size);
}

Status ArchiveReader::GetBytes(std::span<std::byte> out) {
  CVXQ_RETURN_IF_ERROR(Read(out));
  uint32_t checksum = 0;
  CVXQ_RETURN_IF_ERROR(Read(std::as_writable_bytes(std::span(&checksum, 1))));
  return checksum == Checksum(out) ? absl::OkStatus() : Damaged("a checksum differs");
}

Status ArchiveReader::Finish() {
  uint64_t size = 0;
  CVXQ_RETURN_IF_ERROR(Read(std::as_writable_bytes(std::span(&size, 1))));
  const bool all = size == kEnd && used_ == buffer_.size() && next_ == info_.size;
  return all ? absl::OkStatus() : Damaged("something follows");
}

}  // namespace cvxq
