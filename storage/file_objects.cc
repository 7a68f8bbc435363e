#include "storage/file_objects.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "storage/atomic_file.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr int kTriesAgainstDelete = 100;  // of a folder that others remove meanwhile

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

std::string Etag(const struct stat& info) {
  return absl::StrFormat("%x-%x-%x-%x", info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec,
                         info.st_ino);
}

// Above all that this process has told before.
timespec NewModificationTime() {
  static std::atomic<int64_t> last = 0;
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const int64_t clock = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  int64_t before = last, next;
  do {
    next = std::max(clock, before + 1);
  } while (!last.compare_exchange_weak(before, next));
  return {.tv_sec = next / 1'000'000'000, .tv_nsec = next % 1'000'000'000};
}

Status MakeFolders(const std::string& folder) {
  for (int tries = 0; tries < kTriesAgainstDelete; ++tries) {
    if (mkdir(folder.c_str(), 0777) == 0) return SyncFolder(ParentFolder(folder));
    if (errno == EEXIST) return absl::OkStatus();
    if (errno != ENOENT) break;
    CVXQ_RETURN_IF_ERROR(MakeFolders(ParentFolder(folder)));
  }
  return ErrnoStatus(errno, "cannot make the folder", folder);
}

// So that the new name (or its end) survives a power cut. The folder may be gone: somebody has
// removed the file again.
Status SyncParent(const std::string& path) {
  const Status status = SyncFolder(ParentFolder(path));
  return status.code() == absl::StatusCode::kNotFound ? absl::OkStatus() : status;
}

// A file beside its final name.
class FileWriter : public ObjectWriter {
 public:
  static StatusOr<std::unique_ptr<FileWriter>> Create(const std::string& path) {
    static std::atomic<uint64_t> count = 0;
    static const uint64_t process = (uint64_t{std::random_device()()} << 32) ^ getpid();
    struct stat info;
    if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "cannot write ", path, ": it is no regular file; choose the name of a new file"));
    }
    const std::string folder = ParentFolder(path);
    const std::string partial =
        absl::StrFormat("%s/%s%x-%x", folder, kPartialName, process, ++count);
    int fd = -1;
    for (int tries = 0; fd < 0 && tries < kTriesAgainstDelete; ++tries) {
      fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0 || errno != ENOENT) break;
      CVXQ_RETURN_IF_ERROR(MakeFolders(folder));
      errno = ENOENT;
    }
    if (fd < 0) return ErrnoStatus(errno, "cannot write", path);
    return std::unique_ptr<FileWriter>(new FileWriter(path, partial, fd));
  }
  ~FileWriter() override {
    if (!renamed_) unlink(partial_.c_str());
  }

  Status Append(std::span<const std::byte> bytes) override {
    if (status_.ok()) {
      status_ = WriteAll(file_.number(),
                         {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path_);
    }
    return status_;
  }
  Status Commit() override {
    CVXQ_RETURN_IF_ERROR(Flush());
    if (rename(partial_.c_str(), path_.c_str()) != 0) {
      return status_ = ErrnoStatus(errno, "cannot write", path_);
    }
    renamed_ = true;
    status_ = absl::FailedPreconditionError(absl::StrCat(path_, " is already committed"));
    return SyncParent(path_);
  }
  // Like Commit, but kAlreadyExists where something has that name. May be called again then.
  Status CommitIfAbsent() {
    CVXQ_RETURN_IF_ERROR(Flush());
    if (link(partial_.c_str(), path_.c_str()) != 0) {
      if (errno == EPERM || errno == EOPNOTSUPP) {
        return absl::UnimplementedError(absl::StrCat(
            "cannot write ", path_, ": its file system has no hard links; choose another place"));
      }
      return ErrnoStatus(errno, "cannot write", path_);
    }
    return SyncParent(path_);
  }

 private:
  FileWriter(const std::string& path, const std::string& partial, int fd)
      : path_(path), partial_(partial), file_(fd) {}

  Status Flush() {
    CVXQ_RETURN_IF_ERROR(status_);
    const timespec times[2] = {{.tv_nsec = UTIME_OMIT}, NewModificationTime()};
    if (futimens(file_.number(), times) != 0 || fsync(file_.number()) != 0) {
      status_ = ErrnoStatus(errno, "cannot flush", path_);
    }
    return status_;
  }

  const std::string path_, partial_;
  const Descriptor file_;
  bool renamed_ = false;
  Status status_;  // the first error
};

class FileObjects : public ObjectStore {
 public:
  explicit FileObjects(std::string folder) : folder_(std::move(folder)) {}

  std::string address() const override { return folder_; }

  StatusOr<ObjectInfo> Head(const std::string& key) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    struct stat info;
    if (stat(Path(key).c_str(), &info) != 0) return ReadError(errno, key);
    if (!S_ISREG(info.st_mode)) return NoFile(info, key);
    return ObjectInfo{.key = key, .size = info.st_size, .etag = Etag(info)};
  }

  Status Read(const std::string& key, const std::string& etag, int64_t offset,
              std::span<std::byte> out) override {
    CVXQ_ASSIGN_OR_RETURN(const Opened file, Open(key));
    const Status changed = absl::FailedPreconditionError(
        absl::StrCat("cannot read ", Path(key), ": it was changed meanwhile; start again"));
    if (!etag.empty() && Etag(file.info) != etag) return changed;
    const int64_t size = file.info.st_size, count = out.size();
    if (offset < 0 || offset > size || count > size - offset) {
      return absl::OutOfRangeError(absl::StrCat("cannot read ", Path(key), ": ", count,
                                                " bytes at ", offset, " are beyond its end at ",
                                                size));
    }
    while (!out.empty()) {
      const ssize_t n = pread(file.descriptor.number(), out.data(), out.size(), offset);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ReadError(errno, key);
      if (n == 0) return changed;  // it has been cut
      out = out.subspan(n);
      offset += n;
    }
    struct stat after;
    if (fstat(file.descriptor.number(), &after) != 0) return ReadError(errno, key);
    return Etag(after) == Etag(file.info) ? absl::OkStatus() : changed;
  }

  StatusOr<std::string> ReadAll(const std::string& key, int64_t limit) override {
    CVXQ_ASSIGN_OR_RETURN(const ObjectInfo info, Head(key));
    if (info.size > limit) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot read ", Path(key), ": it has ",
                                                       info.size, " bytes, more than the ", limit,
                                                       " that are allowed here"));
    }
    std::string bytes(info.size, '\0');
    CVXQ_RETURN_IF_ERROR(Read(key, info.etag, 0, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }

  Status Write(const std::string& key, std::string_view bytes) override {
    CVXQ_ASSIGN_OR_RETURN(const auto writer, CreateSmall(key, bytes));
    return writer->Commit();
  }

  Status WriteIfAbsent(const std::string& key, std::string_view bytes) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    std::unique_ptr<FileWriter> writer;
    for (int tries = 0; tries < kTriesAgainstDelete; ++tries) {
      // Looked at before anything is written: most callers come too late for good.
      const auto found = ReadAll(key, bytes.size());
      if (found.ok() && *found == bytes) return SyncParent(Path(key));
      if (found.ok() || found.status().code() == absl::StatusCode::kResourceExhausted) {
        return absl::AlreadyExistsError(
            absl::StrCat("cannot write ", Path(key), ": something else has been written there"));
      }
      const absl::StatusCode code = found.status().code();
      if (code == absl::StatusCode::kFailedPrecondition && tries + 1 < kTriesAgainstDelete) {
        continue;  // replaced between two looks
      }
      if (code != absl::StatusCode::kNotFound) return found.status();
      if (!writer) {
        CVXQ_ASSIGN_OR_RETURN(writer, CreateSmall(key, bytes));
      }
      const Status status = writer->CommitIfAbsent();
      if (status.code() != absl::StatusCode::kAlreadyExists) return status;
    }
    return absl::FailedPreconditionError(
        absl::StrCat("cannot write ", Path(key),
                     ": something has this name but cannot be read; remove it "
                     "if it is a link"));
  }

  StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key, int64_t) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    return FileWriter::Create(Path(key));
  }

  Status Delete(const std::string& key) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    const std::string path = Path(key);
    if (unlink(path.c_str()) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
      struct stat info;
      if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
      return ErrnoStatus(errno, "cannot remove", path);
    }
    std::string gone = path;  // the highest name that was removed
    while (ParentFolder(gone).size() > folder_.size() && rmdir(ParentFolder(gone).c_str()) == 0) {
      gone = ParentFolder(gone);
    }
    return SyncParent(gone);
  }

  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) override {
    const size_t slash = prefix.rfind('/');
    const std::string base = slash == std::string::npos ? "" : prefix.substr(0, slash);
    if (slash != std::string::npos) CVXQ_RETURN_IF_ERROR(CheckKey(base));
    std::vector<ObjectInfo> found;
    CVXQ_RETURN_IF_ERROR(Walk(base, prefix, found));
    std::sort(found.begin(), found.end(),
              [](const ObjectInfo& a, const ObjectInfo& b) { return a.key < b.key; });
    return found;
  }

 private:
  struct Opened {
    Descriptor descriptor;
    struct stat info;
  };

  std::string Path(const std::string& key) const {
    return folder_.ends_with('/') ? folder_ + key : absl::StrCat(folder_, "/", key);
  }

  Status ReadError(int error, const std::string& key) const {
    // A key below another key's file is just not there.
    return ErrnoStatus(error == ENOTDIR ? ENOENT : error, "cannot read", Path(key));
  }
  // Folders are no objects; pipes and devices are somebody's mistake.
  Status NoFile(const struct stat& info, const std::string& key) const {
    if (S_ISDIR(info.st_mode)) {
      return absl::NotFoundError(
          absl::StrCat("cannot read ", Path(key), ": it is a folder; name a file"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read ", Path(key), ": it is no regular file; name a file"));
  }

  StatusOr<Opened> Open(const std::string& key) const {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    // O_NONBLOCK: opening a pipe must not wait for its writer.
    Opened file{Descriptor(open(Path(key).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)), {}};
    if (file.descriptor.number() < 0 || fstat(file.descriptor.number(), &file.info) != 0) {
      return ReadError(errno, key);
    }
    if (!S_ISREG(file.info.st_mode)) return NoFile(file.info, key);
    return file;
  }

  StatusOr<std::unique_ptr<FileWriter>> CreateSmall(const std::string& key,
                                                    std::string_view bytes) const {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    if (static_cast<int64_t>(bytes.size()) > kLargestSmallObject) {
      return absl::InvalidArgumentError(absl::StrCat("cannot write ", Path(key),
                                                     " in one piece: it has ", bytes.size(),
                                                     " bytes, more than ", kLargestSmallObject));
    }
    CVXQ_ASSIGN_OR_RETURN(auto writer, FileWriter::Create(Path(key)));
    CVXQ_RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(bytes))));
    return writer;
  }

  // Adds what lies below folder `base` (a key, or empty) and begins with `prefix`.
  Status Walk(const std::string& base, const std::string& prefix,
              std::vector<ObjectInfo>& found) const {
    const std::string path = base.empty() ? folder_ : Path(base);
    const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
    if (!folder) {
      if (errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
      return ErrnoStatus(errno, "cannot list", path);
    }
    std::vector<std::string> folders;
    while (true) {
      errno = 0;
      const dirent* entry = readdir(folder.get());
      if (entry == nullptr && errno != 0) return ErrnoStatus(errno, "cannot list", path);
      if (entry == nullptr) break;
      const std::string key = base.empty() ? entry->d_name : absl::StrCat(base, "/", entry->d_name);
      if (!CheckKey(key).ok()) continue;
      const size_t common = std::min(key.size(), prefix.size());
      if (key.compare(0, common, prefix, 0, common) != 0) continue;
      struct stat info;
      if (fstatat(dirfd(folder.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
      if (S_ISDIR(info.st_mode)) {
        folders.push_back(key);
        continue;
      }
      if (S_ISLNK(info.st_mode) && fstatat(dirfd(folder.get()), entry->d_name, &info, 0) != 0) {
        continue;
      }
      if (S_ISREG(info.st_mode) && key.size() >= prefix.size()) {
        found.push_back({.key = key, .size = info.st_size, .etag = Etag(info)});
      }
    }
    for (const std::string& key : folders) CVXQ_RETURN_IF_ERROR(Walk(key, prefix, found));
    return absl::OkStatus();
  }

  const std::string folder_;
};

}  // namespace

StatusOr<std::unique_ptr<ObjectStore>> OpenFileObjects(const std::string& folder) {
  std::string path = folder;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open ", path, ": it is no folder; name a folder"));
  }
  return std::make_unique<FileObjects>(path);
}

}  // namespace cvxq
