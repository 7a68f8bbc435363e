// The HTTP side of a coordinator or worker: /metrics for Prometheus, /healthz (the process lives)
// and /readyz (it takes jobs, it is registered). One thread answers one request a connection
// (HTTP/1.0); nothing a client sends is kept, and one that is slow is cut off.
#ifndef CVXQ_SERVICE_API_HTTP_SERVER_H_
#define CVXQ_SERVICE_API_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/status.h"

namespace cvxq {

struct HttpPages {
  std::function<std::string()> metrics;
  std::function<bool()> ready;
};

class HttpServer {
 public:
  // Listens on HOST:PORT (HOST an IPv4 address; port 0: any). kInvalidArgument, kUnavailable.
  static StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& listen, HttpPages pages);
  ~HttpServer();

  int port() const { return port_; }

 private:
  HttpServer() = default;
  void Serve();
  void Answer(int connection) const;

  HttpPages pages_;
  int listener_ = -1, wake_[2] = {-1, -1};
  int port_ = 0;
  std::thread thread_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_HTTP_SERVER_H_
