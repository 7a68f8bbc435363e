// Local files: whole reads, safe writes, and output folders that appear complete or not at all.
#ifndef CVXQ_STORAGE_FILES_H_
#define CVXQ_STORAGE_FILES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cvxq {

// Larger files are mapped or streamed, never read whole.
inline constexpr int64_t kLargestWholeFile = int64_t{4} << 30;

// The whole file. kNotFound, kPermissionDenied, kFailedPrecondition (a folder or a device) and
// kResourceExhausted (more than kLargestWholeFile) name the path.
StatusOr<std::string> ReadFile(const std::string& path);

// Writes beside, fsyncs and renames, so that `path` has the old or the new contents, never a part.
Status WriteFile(const std::string& path, std::string_view contents);

// Lower-case hex SHA-256 of a file's bytes.
StatusOr<std::string> FileSha256(const std::string& path);

// A folder that is written beside its final place and renamed there in one step:
//
//   CVXQ_ASSIGN_OR_RETURN(auto out, OutputFolder::Create("OUT", /*overwrite=*/false));
//   ... write files under out->path() ...
//   CVXQ_RETURN_IF_ERROR(out->Publish());
//
// Until Publish nothing exists under the final name. Unless published, the destructor removes what
// was written: an interrupted command need only return. With `overwrite` an existing folder is
// replaced at Publish (moved aside, then removed); without, an existing final name is refused at
// once with kAlreadyExists that tells of
// --overwrite. A missing or unwritable parent is refused at once. The folder written is
// FINAL.partial-PID, locked (flock) as long as its process lives: what a killed process leaves
// behind the next one removes.
class OutputFolder {
 public:
  static StatusOr<std::unique_ptr<OutputFolder>> Create(const std::string& final_path,
                                                        bool overwrite);
  ~OutputFolder();

  const std::string& path() const { return path_; }  // where to write now
  std::string File(std::string_view name) const { return path_ + "/" + std::string(name); }
  // fsyncs files and folder, renames. After it path() is the final path.
  Status Publish();

 private:
  OutputFolder() = default;
  std::string path_, final_path_;
  bool overwrite_ = false, published_ = false;
  int lock_ = -1;  // descriptor of the folder
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_FILES_H_
