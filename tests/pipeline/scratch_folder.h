// An empty folder for the files of one test, removed at its end.
#ifndef CVXQ_TESTS_PIPELINE_SCRATCH_FOLDER_H_
#define CVXQ_TESTS_PIPELINE_SCRATCH_FOLDER_H_

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace cvxq {

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "cvxq_test_XXXXXX").string();
    path_ = mkdtemp(name.data()) == nullptr ? "" : name;
  }
  ~ScratchFolder() {
    if (!path_.empty()) std::filesystem::remove_all(path_);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  // Writes a file, with the folders above it, and gives its path.
  std::string Write(const std::string& name, std::string_view contents) const {
    const std::filesystem::path path = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << contents;
    return path.string();
  }

 private:
  std::string path_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_PIPELINE_SCRATCH_FOLDER_H_
