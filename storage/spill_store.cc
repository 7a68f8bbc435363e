#include "storage/spill_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "storage/errors.h"
#include "storage/object_map.h"

namespace cvxq {
namespace {

Status SpillError(const std::string& folder, const char* what) {
  const Status status = ErrnoStatus(
      errno, absl::StrCat("cannot ", what, " the file of intermediate results in"), folder);
  return Status(status.code(), absl::StrCat(status.message(), "; fewer --samples need less"));
}

}  // namespace

SpillStore::~SpillStore() {
  if (fd_ >= 0) close(fd_);
}

Status SpillStore::Write(int64_t offset, std::span<const float> values) {
  const char* data = reinterpret_cast<const char*>(values.data());
  for (int64_t left = values.size_bytes(); left > 0;) {
    const ssize_t n = pwrite(fd_, data, left, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return SpillError(folder_, "write");
    data += n;
    offset += n;
    left -= n;
  }
  return absl::OkStatus();
}

StatusOr<SpillStore::Handle> SpillStore::Put(std::span<const float> values) {
  const int64_t bytes = values.size_bytes();
  std::unique_lock lock(mutex_);
  Entry entry;
  entry.size = values.size();
  if (in_memory_ + bytes <= memory_limit_) {
    in_memory_ += bytes;
    entry.values.assign(values.begin(), values.end());
    entries_.push_back(std::move(entry));
    return static_cast<Handle>(entries_.size() - 1);
  }
  if (fd_ < 0 && (fd_ = OpenUnnamedFile(folder_)) < 0) return SpillError(folder_, "create");
  entry.offset = on_disk_;
  on_disk_ += bytes;
  entries_.push_back(entry);
  const Handle handle = static_cast<Handle>(entries_.size() - 1);
  lock.unlock();
  CVXQ_RETURN_IF_ERROR(Write(entry.offset, values));
  return handle;
}

Status SpillStore::Overwrite(Handle handle, std::span<const float> values) {
  int64_t offset;
  {
    std::lock_guard lock(mutex_);
    Entry& entry = entries_[handle];
    offset = entry.offset;
    if (offset < 0) std::copy(values.begin(), values.end(), entry.values.begin());
  }
  return offset < 0 ? absl::OkStatus() : Write(offset, values);
}

Status SpillStore::Get(Handle handle, std::span<float> out) const {
  int64_t offset;
  {
    std::lock_guard lock(mutex_);
    const Entry& entry = entries_[handle];
    offset = entry.offset;
    if (offset < 0) std::copy(entry.values.begin(), entry.values.end(), out.begin());
  }
  if (offset < 0) return absl::OkStatus();
  char* data = reinterpret_cast<char*>(out.data());
  for (int64_t left = out.size_bytes(); left > 0;) {
    const ssize_t n = pread(fd_, data, left, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return SpillError(folder_, "read");
    data += n;
    offset += n;
    left -= n;
  }
  return absl::OkStatus();
}

void SpillStore::Drop(Handle handle) {
  std::lock_guard lock(mutex_);
  Entry& entry = entries_[handle];
  const int64_t bytes = entry.size * static_cast<int64_t>(sizeof(float));
  if (entry.offset < 0) {
    in_memory_ -= bytes;
    entry.values = {};
  } else if (bytes > 0) {
    // Where a file system cannot make holes, the space comes back with the file.
    fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, entry.offset, bytes);
    dropped_ += bytes;
  }
  entry.size = 0;
}

int64_t SpillStore::size(Handle handle) const {
  std::lock_guard lock(mutex_);
  return entries_[handle].size;
}
int64_t SpillStore::bytes_in_memory() const {
  std::lock_guard lock(mutex_);
  return in_memory_;
}
int64_t SpillStore::bytes_on_disk() const {
  std::lock_guard lock(mutex_);
  return on_disk_ - dropped_;
}

}  // namespace cvxq
