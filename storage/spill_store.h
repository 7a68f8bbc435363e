// Large intermediate arrays of floats: in memory up to a limit, beyond it in an unnamed file beside
// the output, which the system removes with the process however that ends.
#ifndef CVXQ_STORAGE_SPILL_STORE_H_
#define CVXQ_STORAGE_SPILL_STORE_H_

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

// Any thread may call any member; two calls on one handle must not overlap.
class SpillStore {
 public:
  using Handle = int64_t;

  // `folder` takes the file, made only when needed.
  SpillStore(std::string folder, int64_t memory_limit)
      : folder_(std::move(folder)), memory_limit_(memory_limit) {}
  ~SpillStore();
  SpillStore(const SpillStore&) = delete;
  SpillStore& operator=(const SpillStore&) = delete;

  // Keeps a copy. A full disk or unwritable folder is an error that names the folder.
  StatusOr<Handle> Put(std::span<const float> values);
  // Replaces the values of a handle by as many others.
  Status Overwrite(Handle handle, std::span<const float> values);
  // Reads all values of a handle; out has their number.
  Status Get(Handle handle, std::span<float> out) const;
  int64_t size(Handle handle) const;
  // Gives back memory and disk space; the handle is not used any more.
  void Drop(Handle handle);

  int64_t bytes_in_memory() const;
  int64_t bytes_on_disk() const;

 private:
  struct Entry {
    std::vector<float> values;  // empty if on disk
    int64_t offset = -1, size = 0;
  };
  Status Write(int64_t offset, std::span<const float> values);

  const std::string folder_;
  const int64_t memory_limit_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
  int64_t in_memory_ = 0, on_disk_ = 0, dropped_ = 0;  // bytes; the last, of those on disk
  int fd_ = -1;
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_SPILL_STORE_H_
