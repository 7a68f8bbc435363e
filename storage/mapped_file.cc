#include "storage/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "storage/errors.h"

namespace cvxq {

StatusOr<std::unique_ptr<const MappedFile>> MappedFile::Open(const std::string& path,
                                                             const std::string& kind) {
  struct stat info;
  // O_NONBLOCK: a pipe must be refused, not waited for.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return ErrnoStatus(errno, "cannot read", path);
  if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(descriptor);
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read ", path, ": it is no regular file; name ", kind));
  }
  std::unique_ptr<MappedFile> file(new MappedFile);
  const size_t size = static_cast<size_t>(info.st_size);
  if (size > 0) {
    void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    if (address == MAP_FAILED) {
      close(descriptor);
      return ErrnoStatus(error, "cannot map", path);
    }
    file->bytes_ = {static_cast<const std::byte*>(address), size};
  }
  close(descriptor);
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::Release(std::span<const std::byte> part) const {
  if (part.empty()) return;
  // Whole pages, rounded outwards: a neighbour's page that goes too is read again when touched.
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(part.data()) + part.size();
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace cvxq
