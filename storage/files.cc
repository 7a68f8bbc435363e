#include "storage/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "absl/strings/escaping.h"
#include "storage/atomic_file.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

// Reads a file piece by piece. Devices are refused (some never end), pipes are welcome.
Status ReadPieces(const std::string& path, const std::function<Status(std::string_view)>& take) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "cannot read", path);
  if (S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read ", path, ": it is a folder; name a file"));
  }
  if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read ", path, ": it is no regular file; name a file"));
  }
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "cannot read", path);
  std::string buffer(1 << 20, '\0');
  Status status;
  while (status.ok()) {
    const ssize_t n = read(descriptor, buffer.data(), buffer.size());
    if (n == 0) break;
    if (n > 0) {
      status = take(std::string_view(buffer.data(), static_cast<size_t>(n)));
    } else if (errno != EINTR) {
      status = ErrnoStatus(errno, "cannot read", path);
    }
  }
  close(descriptor);
  return status;
}

Status TooLarge(const std::string& path) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot read ", path, ": it is larger than ",
                                                   kLargestWholeFile,
                                                   " bytes; use a smaller file"));
}

}  // namespace

StatusOr<std::string> ReadFile(const std::string& path) {
  std::string contents;
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
    if (info.st_size > kLargestWholeFile) return TooLarge(path);
    contents.reserve(static_cast<size_t>(info.st_size));
  }
  CVXQ_RETURN_IF_ERROR(ReadPieces(path, [&](std::string_view piece) {
    contents.append(piece);
    return static_cast<int64_t>(contents.size()) > kLargestWholeFile ? TooLarge(path)
                                                                     : absl::OkStatus();
  }));
  return contents;
}

Status WriteFile(const std::string& path, std::string_view contents) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<AtomicFile> file, AtomicFile::Create(path));
  CVXQ_RETURN_IF_ERROR(file->Write(contents));
  return file->Commit();
}

StatusOr<std::string> FileSha256(const std::string& path) {
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  const Status failed = absl::InternalError(absl::StrCat("cannot compute SHA-256 of ", path));
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) return failed;
  CVXQ_RETURN_IF_ERROR(ReadPieces(path, [&](std::string_view piece) {
    const bool good = EVP_DigestUpdate(context.get(), piece.data(), piece.size()) == 1;
    return good ? absl::OkStatus() : failed;
  }));
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()), &size) !=
      1) {
    return failed;
  }
  return absl::BytesToHexString(digest.substr(0, size));
}

}  // namespace cvxq
