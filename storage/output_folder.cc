#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "absl/strings/match.h"
#include "storage/atomic_file.h"
#include "storage/errors.h"
#include "storage/files.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

bool Exists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

Status AlreadyExists(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " exists; choose another name or replace it with --overwrite"));
}

// `stem` with this process's number, and a further number if that is taken.
StatusOr<std::string> NewFolder(const std::string& stem) {
  constexpr int kTries = 1000;
  for (int i = 1;; ++i) {
    const std::string path =
        absl::StrCat(stem, getpid(), i == 1 ? std::string() : absl::StrCat("-", i));
    if (mkdir(path.c_str(), 0777) == 0) return path;
    if (errno != EEXIST || i == kTries) return ErrnoStatus(errno, "cannot create", path);
  }
}

// The lock on a folder under way, which goes with its process; -1 where somebody else has it.
int LockFolder(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return -1;
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return descriptor;
  close(descriptor);
  return -1;
}

// Removes what killed processes have left beside their output: nobody holds its lock any more.
// Where a file system has no locks it stays.
void RemoveLeftovers(const std::string& stem) {
  std::error_code ignored;
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(ParentFolder(stem), ignored)) {
    const std::string name = entry.path().filename();
    const std::string start = fs::path(stem).filename();
    // A process's number, and perhaps another: names that people give are none of ours.
    if (!absl::StartsWith(name, start) || name.size() == start.size() ||
        name.find_first_not_of("0123456789-", start.size()) != std::string::npos) {
      continue;
    }
    if (entry.is_directory(ignored) && !entry.is_symlink(ignored)) left.push_back(entry.path());
  }
  for (const std::string& path : left) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) fs::remove_all(path, ignored);
    close(descriptor);
  }
}

Status SyncFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "cannot open", path);
  const int error = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "cannot flush", path);
}

// Flushes every file and folder below, then the folder itself.
Status SyncTree(const std::string& folder) {
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const fs::file_status status = it->symlink_status(error);
    if (error) break;
    if (fs::is_directory(status)) CVXQ_RETURN_IF_ERROR(SyncFolder(it->path().string()));
    if (fs::is_regular_file(status)) CVXQ_RETURN_IF_ERROR(SyncFile(it->path().string()));
  }
  if (error) return ErrnoStatus(error.value(), "cannot list", folder);
  return SyncFolder(folder);
}

// Renames unless `to` exists, in one step where the file system can do that.
Status RenameToNew(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    return absl::OkStatus();
  }
  if (errno == EEXIST) return AlreadyExists(to);
  if (errno != EINVAL && errno != ENOSYS) return ErrnoStatus(errno, "cannot create", to);
  if (Exists(to)) return AlreadyExists(to);
  if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(errno, "cannot create", to);
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<OutputFolder>> OutputFolder::Create(const std::string& final_path,
                                                             bool overwrite) {
  std::string path = final_path;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const std::string name = fs::path(path).filename().string();
  if (name.empty() || name == "." || name == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write the folder \"", final_path, "\"; give it a name of its own"));
  }
  if (Exists(path)) {
    if (!overwrite) return AlreadyExists(path);
    struct stat info;
    if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot replace ", path, ": it is no folder; choose another name"));
    }
  }
  const std::string parent = ParentFolder(path);
  struct stat info;
  if (stat(parent.c_str(), &info) != 0) {
    if (errno != ENOENT) return ErrnoStatus(errno, "cannot write into", parent);
    return absl::NotFoundError(
        absl::StrCat("cannot write ", path, ": the folder ", parent, " is missing; create it"));
  }
  std::unique_ptr<OutputFolder> folder(new OutputFolder);
  RemoveLeftovers(path + ".partial-");
  constexpr int kTries = 10;
  for (int i = 0; i < kTries && folder->lock_ < 0; ++i) {
    CVXQ_ASSIGN_OR_RETURN(folder->path_, NewFolder(path + ".partial-"));
    folder->lock_ = LockFolder(folder->path_);
    // Another process may have taken it for a leftover before it was locked.
    if (folder->lock_ >= 0 && !Exists(folder->path_)) {
      close(folder->lock_);
      folder->lock_ = -1;
    }
  }
  if (folder->lock_ < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot write ", path, ": others remove what is made there; try again"));
  }
  folder->final_path_ = path;
  folder->overwrite_ = overwrite;
  return folder;
}

OutputFolder::~OutputFolder() {
  if (!published_ && !path_.empty()) {
    std::error_code ignored;  // nobody is left to be told
    fs::remove_all(path_, ignored);
  }
  if (lock_ >= 0) close(lock_);
}

Status OutputFolder::Publish() {
  CVXQ_RETURN_IF_ERROR(SyncTree(path_));
  std::string aside;
  if (overwrite_ && Exists(final_path_)) {
    // The old one moves into a new folder, so that no name is taken from anybody, link or folder.
    CVXQ_ASSIGN_OR_RETURN(aside, NewFolder(final_path_ + ".old-"));
    aside += "/was";
    if (rename(final_path_.c_str(), aside.c_str()) != 0) {
      const int error = errno;
      rmdir(ParentFolder(aside).c_str());
      return ErrnoStatus(error, "cannot replace", final_path_);
    }
  }
  const Status renamed = RenameToNew(path_, final_path_);
  if (!renamed.ok()) {
    if (!aside.empty() && rename(aside.c_str(), final_path_.c_str()) == 0) {
      rmdir(ParentFolder(aside).c_str());
    }
    return renamed;
  }
  path_ = final_path_;
  published_ = true;
  CVXQ_RETURN_IF_ERROR(SyncFolder(ParentFolder(final_path_)));
  if (aside.empty()) return absl::OkStatus();
  std::error_code error;
  fs::remove_all(ParentFolder(aside), error);
  if (error) {
    return absl::InternalError(
        absl::StrCat(final_path_, " is complete, but its old contents in ", ParentFolder(aside),
                     " cannot be removed: ", error.message(), "; remove them by hand"));
  }
  return absl::OkStatus();
}

}  // namespace cvxq
