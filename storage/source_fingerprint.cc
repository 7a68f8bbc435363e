#include "storage/source_fingerprint.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <map>

#include "storage/errors.h"
#include "storage/folder.h"

namespace cvxq {

StatusOr<std::string> SourceFingerprint(const std::string& folder) {
  if (IsBucketAddress(folder)) {
    CVXQ_ASSIGN_OR_RETURN(const std::shared_ptr<const Folder> opened, Folder::Open(folder));
    return opened->Revision();
  }
  std::error_code error;
  std::map<std::string, std::string> files;  // in order of names
  std::filesystem::directory_iterator it(folder, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    struct stat info;
    if (stat(it->path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    files[it->path().filename().string()] =
        absl::StrCat(info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec, ".",
                     info.st_mtim.tv_nsec, " ", info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec);
  }
  if (error) return ErrnoStatus(error.value(), "cannot list", folder);
  std::string result;
  for (const auto& [name, state] : files) absl::StrAppend(&result, name, " ", state, "\n");
  return result;
}

}  // namespace cvxq
