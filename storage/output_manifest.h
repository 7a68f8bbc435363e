// The small object that makes an output in a bucket exist: OUT/manifest.json, written last and
// once, names the files of the output.
//
//   OUT/manifest.json               {"format": "cvxq.output", "version": 1, "folder": FOLDER,
//                                    "files": [{"name", "size", "sha256"}, ...],   by name
//                                    "facts": {...}}                for people; not read here
//   OUT/FOLDER/config.json ...      FOLDER is the digest of the files: who writes the same files
//                                   writes the same objects
//
// Nothing in it tells when or by whom it was written: two attempts at one job write the same bytes.
#ifndef CVXQ_STORAGE_OUTPUT_MANIFEST_H_
#define CVXQ_STORAGE_OUTPUT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/status.h"
#include "nlohmann/json.hpp"

namespace cvxq {

inline constexpr char kManifestName[] = "manifest.json";
inline constexpr int64_t kLargestManifest = int64_t{1} << 20;

struct OutputManifest {
  struct File {
    int64_t size = 0;
    std::string sha256;  // lower-case hex
    bool operator==(const File&) const = default;
  };
  std::map<std::string, File> files;  // by name
  nlohmann::json facts = nlohmann::json::object();

  // The folder that these files belong into: a digest of their names, sizes and checksums.
  std::string Folder() const;
  std::string Serialize() const;
  // kDataLoss, with `where`, for anything that Serialize does not make: other formats and versions,
  // names that are no plain file names, a folder that is not that of the files, sizes and checksums
  // that cannot be, more than 1000 files.
  static StatusOr<OutputManifest> Parse(std::string_view text, const std::string& where);
};

// A file name that leads nowhere else: not empty or ".", without "..", slashes, and
// control characters, at most 255 bytes.
bool IsPlainName(std::string_view name);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_OUTPUT_MANIFEST_H_
