// Notices that a model, in a folder or in a bucket, changes while it is worked on.
#ifndef CVXQ_STORAGE_SOURCE_FINGERPRINT_H_
#define CVXQ_STORAGE_SOURCE_FINGERPRINT_H_

#include <string>

#include "base/status.h"

namespace cvxq {

// A string that differs when a file of the folder (not of folders in it) comes, goes, or is written
// to: by names, sizes and times of change, no byte is read. Of a bucket: the folder's revision
// (storage/folder.h). kNotFound, kPermissionDenied.
StatusOr<std::string> SourceFingerprint(const std::string& address);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_SOURCE_FINGERPRINT_H_
