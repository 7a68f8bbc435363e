// Writing one object front to back. What fits into one part is a single PUT at Commit; more is a
// multipart upload: parts are sent by threads of its own while the next one fills, at most
// options.parallel_requests of them in memory beside it.
//
// Lost replies. A part: ListParts tells whether it came through, before it is sent again. The
// completion: the upload's own random mark is the object's metadata `cvxq-upload`; where the mark
// is there, the upload is done. The start: a second upload is started, the first one stays behind
// for the bucket's rule for unfinished uploads.
#ifndef CVXQ_STORAGE_S3_S3_UPLOAD_H_
#define CVXQ_STORAGE_S3_S3_UPLOAD_H_

#include <memory>
#include <string>

#include "storage/object_store.h"
#include "storage/s3/s3_client.h"

namespace cvxq {

// Sends nothing yet. `client`, and a StopScope in which it is made, must outlive the writer.
std::unique_ptr<ObjectWriter> StartS3Upload(S3Client& client, const std::string& key,
                                            int64_t expected_bytes);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_S3_UPLOAD_H_
