// An HTTP/1.1 client: libcurl with connections that are kept. No redirects are followed, TLS
// certificates are always verified, proxies come from the environment as curl reads it.
#ifndef CVXQ_STORAGE_S3_HTTP_H_
#define CVXQ_STORAGE_S3_HTTP_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "storage/s3/sigv4.h"

namespace cvxq {

struct HttpRequest {
  std::string method;  // GET, HEAD, PUT, POST, DELETE
  std::string url;     // encoded; sent as it is
  NamedValues headers;
  std::string_view body;      // of PUT and POST
  std::span<std::byte> into;  // where the body of a 206 goes; no more than this is taken
  int64_t largest_body = 0;   // of any other answer
  int64_t patience_ms = 0;    // without a byte in either direction; then the attempt is over
  const std::atomic<bool>* cancelled = nullptr;  // from another thread; may be null
};

struct HttpAnswer {
  // How the exchange went. OK: the whole answer is there, whatever its status says. kUnavailable:
  // the connection failed or broke, and it is not known whether the server has done the request.
  // kResourceExhausted: the body is larger than asked for (of an error's only the beginning is
  // taken). kCancelled. Others are for good, as a certificate that is not trusted.
  Status exchange;
  int status = 0;                              // 0: none came
  std::map<std::string, std::string> headers;  // of kKeptHeaders, those that came; names lower case
  std::string body;
  int64_t received = 0;  // bytes put into `into`

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

inline constexpr const char* kKeptHeaders[] = {"content-length", "content-range", "etag",
                                               "x-amz-bucket-region", "x-amz-meta-cvxq-upload"};

// Thread-safe: each request in flight has a connection of its own, which is then kept for the next.
class HttpClient {
 public:
  explicit HttpClient(std::string ca_bundle);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  HttpAnswer Send(const HttpRequest& request);

 private:
  const std::string ca_bundle_;
  std::mutex mutex_;
  std::vector<void*> idle_;  // curl's handles; the one used last is taken first
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_HTTP_H_
