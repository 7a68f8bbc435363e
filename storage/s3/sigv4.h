// Signatures of requests to S3: AWS Signature Version 4, in the header `Authorization`.
//
// libcurl can sign too, but wrongly for some keys and queries in the version this project builds
// with. S3 differs from other services of Amazon: the path is percent-encoded once and taken as it
// is otherwise.
//
// The body's SHA-256 is always part of the signature, over https too: the server then refuses a
// body that was damaged anywhere on its way, and no other checksum is needed.
#ifndef CVXQ_STORAGE_S3_SIGV4_H_
#define CVXQ_STORAGE_S3_SIGV4_H_

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cvxq {

// Names of headers in lower case here; names and values of queries not encoded.
using NamedValues = std::vector<std::pair<std::string, std::string>>;

struct S3Credentials {
  std::string access_key_id, secret_access_key;  // empty: requests are not signed
  std::string session_token;                     // may be empty
  bool empty() const { return access_key_id.empty(); }
};

// Lower-case hex.
std::string Sha256Hex(std::string_view bytes);

// Every byte but A-Z a-z 0-9 - . _ ~ as %XX; '/' too unless `keep_slashes`.
std::string PercentEncode(std::string_view text, bool keep_slashes);

// "a=1&b=", sorted by the encoded names, as it is signed and sent.
std::string CanonicalQuery(const NamedValues& query);

struct RequestToSign {
  std::string method;
  std::string path;     // encoded, begins with '/'
  std::string query;    // canonical
  NamedValues headers;  // with `host`; all are signed
  std::string_view body;
};

// The headers that have to be sent besides those of the request: x-amz-date, x-amz-content-sha256,
// x-amz-security-token where there is one, authorization.
NamedValues SignV4(const RequestToSign& request, const S3Credentials& credentials,
                   const std::string& region, std::time_t now);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_SIGV4_H_
