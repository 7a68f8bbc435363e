// Objects in a bucket of S3 or of a server that speaks its protocol.
//
// Reading: large spans as ranged requests, several at once, each with If-Match, so that all bytes
// are of one version; what a cut answer has brought is kept, the rest is asked for again. Writing:
// WriteIfAbsent is a PUT with If-None-Match: *; after 412 what is there is compared, because this
// may be our own write whose reply was lost; 409 (another conditional write is under way) is tried
// again. Large objects: storage/s3/s3_upload.h.
#ifndef CVXQ_STORAGE_S3_S3_STORE_H_
#define CVXQ_STORAGE_S3_S3_STORE_H_

#include <memory>

#include "storage/object_store.h"
#include "storage/s3/s3_config.h"

namespace cvxq {

// Sends nothing yet.
StatusOr<std::unique_ptr<ObjectStore>> OpenS3Store(S3Config config,
                                                   const ObjectStoreOptions& options);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_S3_STORE_H_
