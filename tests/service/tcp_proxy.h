// A TCP proxy on the loopback that loses requests and replies on command, for protocols in which a
// client sends a request and waits for the reply.
//
//   CVXQ_ASSIGN_OR_RETURN(auto proxy, TcpProxy::Start(socket_path));
//   proxy->Fail(TcpProxy::Fault::kLoseReply);   // the next request is carried out, its reply lost
//   client.Connect("127.0.0.1", proxy->port());
//
// A request is whatever a client sends between two replies, or between the beginning of its
// connection and the first reply.
#ifndef CVXQ_TESTS_SERVICE_TCP_PROXY_H_
#define CVXQ_TESTS_SERVICE_TCP_PROXY_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/status.h"

namespace cvxq {

// Thread-safe.
class TcpProxy {
 public:
  enum class Fault {
    kNone,
    kLoseRequest,  // the connection is cut when the request arrives; the server never sees it
    kLoseReply,    // the server answers, then the connection is cut; the client never sees it
    kHoldRequest,  // the connection is cut, and what has arrived of the request (all of a short
                   // one) reaches the server with Release
  };

  // Forwards to the socket file `target`, or to the port `target` = "PORT" of the loopback.
  static StatusOr<std::unique_ptr<TcpProxy>> Start(const std::string& target);
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  int port() const { return port_; }
  // What happens to the next `times` requests behind `skip` that are left alone; replaces what an
  // earlier call has asked for.
  void Fail(Fault fault, int skip = 0, int times = 1);
  // Sends the requests that were held to the server and waits until it has answered them all.
  void Release();
  // Cuts all connections. New ones are accepted.
  void CutAll();
  int64_t requests() const;     // that have arrived, whatever became of them
  int64_t connections() const;  // that were accepted

 private:
  struct Connection {
    int client = -1, server = -1;
    bool in_request = false;     // bytes have come from the client since the last reply
    Fault fault = Fault::kNone;  // of the request under way
    std::string held;            // its bytes, where it is held
  };

  TcpProxy() = default;
  void Loop();
  void Accept();
  void FromClient(Connection& connection);
  void FromServer(Connection& connection);
  void Remove(Connection& connection);

  std::string target_;
  int listener_ = -1, port_ = 0;
  std::thread thread_;

  mutable std::mutex mutex_;  // of all below
  std::list<Connection> connections_;
  Fault fault_ = Fault::kNone;
  int skip_ = 0, times_ = 0;
  int64_t requests_ = 0, accepted_ = 0;
  bool stopping_ = false;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_TCP_PROXY_H_
