// Preloaded into a process under test: files whose paths begin with CVXQ_FULL_DISK lie on a disk
// that is full, but for the first CVXQ_FULL_DISK_ROOM bytes that this process writes there. Where
// CVXQ_FULL_DISK_WHILE is set, the disk is full while a file of that name exists.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// How many of `size` bytes for this file have room.
size_t Room(int file, size_t size) {
  static const std::string disk = Variable("CVXQ_FULL_DISK");
  static const std::string is_full = Variable("CVXQ_FULL_DISK_WHILE");
  static std::atomic<long long> room = std::atoll(Variable("CVXQ_FULL_DISK_ROOM").c_str());
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  char path[4096];
  const ssize_t length = readlink(link.c_str(), path, sizeof(path));
  if (length <= 0 || std::string(path, length).rfind(disk, 0) != 0) return size;
  if (!is_full.empty() && access(is_full.c_str(), F_OK) != 0) return size;
  const long long left = room.fetch_sub(static_cast<long long>(size));
  return left <= 0 ? 0 : std::min(size, static_cast<size_t>(left));
}

// What `name` would be without this.
template <typename Call>
Call* Real(const char* name) {
  return reinterpret_cast<Call*>(dlsym(RTLD_NEXT, name));
}

// As the system: what has room is written, ENOSPC where nothing has.
template <typename Write>
ssize_t WriteWhatFits(int file, size_t size, const Write& write) {
  const size_t fits = Room(file, size);
  if (fits > 0 || size == 0) return write(fits);
  errno = ENOSPC;
  return -1;
}

}  // namespace

extern "C" {

ssize_t write(int file, const void* bytes, size_t size) {
  static const auto real = Real<decltype(write)>("write");
  return WriteWhatFits(file, size, [&](size_t fits) { return real(file, bytes, fits); });
}

ssize_t pwrite(int file, const void* bytes, size_t size, off_t offset) {
  static const auto real = Real<decltype(pwrite)>("pwrite");
  return WriteWhatFits(file, size, [&](size_t fits) { return real(file, bytes, fits, offset); });
}

ssize_t pwrite64(int file, const void* bytes, size_t size, off64_t offset) {
  static const auto real = Real<decltype(pwrite64)>("pwrite64");
  return WriteWhatFits(file, size, [&](size_t fits) { return real(file, bytes, fits, offset); });
}

int fallocate(int file, int mode, off_t offset, off_t size) {
  static const auto real = Real<decltype(fallocate)>("fallocate");
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0 || Room(file, size) == static_cast<size_t>(size)) {
    return real(file, mode, offset, size);
  }
  errno = ENOSPC;
  return -1;
}

}  // extern "C"
