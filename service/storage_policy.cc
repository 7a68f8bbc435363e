#include "service/storage_policy.h"

#include <algorithm>
#include <filesystem>

#include "service/errors.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

std::string WithoutScheme(const std::string& uri) {
  return uri.starts_with("file://") ? uri.substr(7) : uri;
}

std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

StatusOr<StoragePolicy> StoragePolicy::Make(const std::vector<std::string>& prefixes) {
  StoragePolicy policy;
  for (const std::string& prefix : prefixes) {
    if (prefix.starts_with("s3://")) {
      return absl::UnimplementedError(
          absl::StrCat("cannot allow ", prefix, ": jobs run on local folders in this version"));
    }
    std::error_code error;
    const fs::path folder = fs::canonical(WithoutScheme(prefix), error);
    if (error || !fs::is_directory(folder, error)) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot allow ", prefix, ": it is not a folder that exists"));
    }
    policy.prefixes_.push_back(WithoutSlash(folder.string()));
  }
  return policy;
}

StatusOr<std::string> StoragePolicy::LocalPath(const std::string& field,
                                               const std::string& uri) const {
  if (uri.starts_with("s3://")) {
    return ServiceError(
        absl::StatusCode::kUnimplemented, reason::kStorageUnsupported,
        absl::StrCat(field, " ", uri, ": this server works on local folders (file://) only"));
  }
  const fs::path path = WithoutScheme(uri);
  const bool climbs =
      std::any_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
  if (!path.is_absolute() || climbs || uri.find('\0') != std::string::npos) {
    return BadFieldError(
        field, absl::StrCat("must be file:///PATH or /PATH without \"..\", not \"", uri, "\""));
  }
  std::error_code error;
  const std::string resolved = WithoutSlash(fs::weakly_canonical(path, error).string());
  const auto holds = [&resolved](const std::string& prefix) {
    return resolved == prefix || prefix == "/" || resolved.starts_with(prefix + "/");
  };
  if (error || std::none_of(prefixes_.begin(), prefixes_.end(), holds)) {
    return ServiceError(absl::StatusCode::kPermissionDenied, reason::kStorageDenied,
                        absl::StrCat(field, " ", uri,
                                     " is not below a folder that this server "
                                     "allows (cvxq coordinator --allow)"));
  }
  return resolved;
}

}  // namespace cvxq
