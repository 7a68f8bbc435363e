#include "storage/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "storage/errors.h"

namespace cvxq {

Status WriteAll(int descriptor, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(descriptor, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot write", path);
    if (n == 0) return ErrnoStatus(ENOSPC, "cannot write", path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

Status SyncFolder(const std::string& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "cannot open", folder);
  const int error = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  // Some network file systems cannot sync a folder and say EINVAL: nothing to be done about it.
  if (error == 0 || error == EINVAL) return absl::OkStatus();
  return ErrnoStatus(error, "cannot flush", folder);
}

std::string ParentFolder(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

StatusOr<std::unique_ptr<AtomicFile>> AtomicFile::Create(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot write ", path, ": it is no regular file; choose the name of a new file"));
  }
  std::unique_ptr<AtomicFile> file(new AtomicFile);
  file->path_ = path;
  file->partial_path_ = absl::StrCat(path, ".partial-", getpid());
  unlink(file->partial_path_.c_str());  // left by a killed process that had the same number
  file->descriptor_ =
      open(file->partial_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file->descriptor_ < 0) return ErrnoStatus(errno, "cannot write", path);
  return file;
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(partial_path_.c_str());
}

Status AtomicFile::Write(std::string_view bytes) {
  if (status_.ok()) status_ = WriteAll(descriptor_, bytes, path_);
  return status_;
}

Status AtomicFile::Commit() {
  CVXQ_RETURN_IF_ERROR(status_);
  if (fsync(descriptor_) != 0) {
    status_ = ErrnoStatus(errno, "cannot flush", path_);
    return status_;
  }
  if (rename(partial_path_.c_str(), path_.c_str()) != 0) {
    status_ = ErrnoStatus(errno, "cannot write", path_);
    return status_;
  }
  close(descriptor_);
  descriptor_ = -1;
  return SyncFolder(ParentFolder(path_));
}

}  // namespace cvxq
