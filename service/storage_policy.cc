#include "service/storage_policy.h"

#include <algorithm>
#include <filesystem>

#include "service/errors.h"
#include "storage/folder.h"
#include "storage/s3/s3_config.h"

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

// At `prefix` or in it.
bool IsBelow(const std::string& place, const std::string& prefix) {
  return place == prefix || place.starts_with(prefix + "/");
}

Status Denied(const std::string& field, const std::string& uri) {
  return ServiceError(absl::StatusCode::kPermissionDenied, reason::kStorageDenied,
                      absl::StrCat(field, " ", uri,
                                   " is not below a folder or bucket that this server allows (cvxq "
                                   "coordinator --allow)"));
}

}  // namespace

StatusOr<StoragePolicy> StoragePolicy::Make(const std::vector<std::string>& prefixes) {
  StoragePolicy policy;
  for (const std::string& prefix : prefixes) {
    if (IsBucketAddress(prefix)) {
      CVXQ_ASSIGN_OR_RETURN(const S3Config config, S3ConfigFromEnvironment(prefix));
      policy.buckets_.push_back(config.address());
      continue;
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

StatusOr<std::string> StoragePolicy::Allowed(const std::string& field,
                                             const std::string& uri) const {
  if (IsBucketAddress(uri)) {
    const StatusOr<S3Config> config = S3ConfigFromEnvironment(uri);
    if (!config.ok()) return BadFieldError(field, std::string(config.status().message()));
    const std::string address = config->address();
    if (std::none_of(buckets_.begin(), buckets_.end(),
                     [&address](const std::string& prefix) { return IsBelow(address, prefix); })) {
      return Denied(field, uri);
    }
    return address;
  }
  if (uri.find("://") != std::string::npos && !uri.starts_with("file://")) {
    return ServiceError(absl::StatusCode::kUnimplemented, reason::kStorageUnsupported,
                        absl::StrCat(field, " ", uri, ": this server knows file:// and s3://"));
  }
  const fs::path path = WithoutScheme(uri);
  const bool climbs =
      std::any_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
  if (!path.is_absolute() || climbs || uri.find('\0') != std::string::npos) {
    return BadFieldError(
        field,
        absl::StrCat("must be file:///PATH, /PATH or s3://BUCKET/PREFIX, without \"..\", not \"",
                     uri, "\""));
  }
  std::error_code error;
  const std::string resolved = WithoutSlash(fs::weakly_canonical(path, error).string());
  const auto holds = [&resolved](const std::string& prefix) {
    return prefix == "/" || IsBelow(resolved, prefix);
  };
  if (error || std::none_of(prefixes_.begin(), prefixes_.end(), holds)) {
    return Denied(field, uri);
  }
  return resolved;
}

}  // namespace cvxq
