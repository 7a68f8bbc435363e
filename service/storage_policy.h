// Which places jobs may read and write: an allow-list of prefixes. Whoever may submit jobs makes
// the service read and write files with its own rights; the list bounds that.
#ifndef CVXQ_SERVICE_STORAGE_POLICY_H_
#define CVXQ_SERVICE_STORAGE_POLICY_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

class StoragePolicy {
 public:
  // Prefixes are folders that exist: /PATH or file:///PATH. None: nothing is allowed.
  static StatusOr<StoragePolicy> Make(const std::vector<std::string>& prefixes);

  // The path of a file:// address or plain absolute path at or below an allowed folder, with links
  // resolved as far as it exists. kInvalidArgument BAD_REQUEST naming `field` for what is no
  // address, kUnimplemented STORAGE_UNSUPPORTED for s3://, kPermissionDenied STORAGE_DENIED.
  StatusOr<std::string> LocalPath(const std::string& field, const std::string& uri) const;

 private:
  std::vector<std::string> prefixes_;  // canonical, without a slash at the end
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORAGE_POLICY_H_
