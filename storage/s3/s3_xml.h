// The few XML documents of S3's protocol. What comes from the server is hostile until it is parsed:
// numbers are checked, unknown elements skipped, everything needed must be there. No entity but the
// five of XML itself and character references is expanded.
#ifndef CVXQ_STORAGE_S3_S3_XML_H_
#define CVXQ_STORAGE_S3_S3_XML_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "storage/object_store.h"

namespace cvxq {

// No answer of a server in use is larger (1000 keys of 1024 bytes, each byte as three).
inline constexpr int64_t kLargestXml = int64_t{8} << 20;

struct S3Error {
  std::string code;    // letters and digits only; empty where the document is no <Error>
  std::string region;  // the one to use, of errors that are about it
};
S3Error ParseS3Error(std::string_view xml);

// All of these give kDataLoss, without saying where the document comes from, for what is broken.

struct ListedObjects {
  std::vector<ObjectInfo> objects;  // with whole keys
  std::string next;                 // continuation token; empty: this was the last page
};
StatusOr<ListedObjects> ParseListObjects(std::string_view xml);  // ListObjectsV2

StatusOr<std::string> ParseUploadId(std::string_view xml);  // CreateMultipartUpload

struct ListedPart {
  int number = 0;
  int64_t size = 0;
  std::string etag;
};
StatusOr<std::vector<ListedPart>> ParseListParts(std::string_view xml);

// Whether CompleteMultipartUpload says that the object is there.
Status ParseCompleted(std::string_view xml);

// The body of CompleteMultipartUpload: etags of parts 1, 2, ...
std::string CompleteUploadXml(const std::vector<std::string>& etags);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_S3_XML_H_
