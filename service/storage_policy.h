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
  // Prefixes are folders that exist, /PATH or file:///PATH, and s3://BUCKET[/PREFIX]. None: nothing
  // is allowed.
  static StatusOr<StoragePolicy> Make(const std::vector<std::string>& prefixes);

  // Where an address leads, if that is at or below an allowed prefix: of file:///PATH or a plain
  // absolute path the path, with links resolved as far as it exists; of a bucket the address
  // without a slash at its end. Keys are compared part by part as they are written: no percent sign
  // is decoded, and "..", "." and empty parts are refused. kInvalidArgument BAD_REQUEST naming
  // `field` for what is no address, kUnimplemented STORAGE_UNSUPPORTED for other schemes,
  // kPermissionDenied STORAGE_DENIED.
  StatusOr<std::string> Allowed(const std::string& field, const std::string& uri) const;

  const std::vector<std::string>& buckets() const { return buckets_; }

 private:
  std::vector<std::string> buckets_;   // s3://BUCKET[/PREFIX], without a slash at the end
  std::vector<std::string> prefixes_;  // canonical, without a slash at the end
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORAGE_POLICY_H_
