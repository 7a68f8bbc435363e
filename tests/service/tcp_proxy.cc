#include "tests/service/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr int kTickMs = 2;  // how soon the thread sees what other threads ask for

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int ConnectTo(const std::string& target) {
  const bool file = target.find('/') != std::string::npos;
  const int descriptor = socket(file ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int code = -1;
  if (file) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (target.size() < sizeof(address.sun_path)) {
      std::memcpy(address.sun_path, target.data(), target.size());
      code = connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    }
  } else {
    sockaddr_in address = Loopback(std::stoi(target));
    code = connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  if (code == 0) return descriptor;
  close(descriptor);
  return -1;
}

bool SendAll(int descriptor, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t n = send(descriptor, bytes, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

StatusOr<std::unique_ptr<TcpProxy>> TcpProxy::Start(const std::string& target) {
  std::unique_ptr<TcpProxy> proxy(new TcpProxy);
  proxy->target_ = target;
  proxy->listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  if (bind(proxy->listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(proxy->listener_, 64) != 0 ||
      getsockname(proxy->listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return ErrnoStatus(errno, "cannot listen for", target);
  }
  proxy->port_ = ntohs(address.sin_port);
  proxy->thread_ = std::thread([p = proxy.get()] { p->Loop(); });
  return proxy;
}

TcpProxy::~TcpProxy() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  CutAll();
  if (listener_ >= 0) close(listener_);
}

void TcpProxy::Fail(Fault fault, int skip, int times) {
  const std::lock_guard<std::mutex> lock(mutex_);
  fault_ = fault;
  skip_ = skip;
  times_ = times;
}

void TcpProxy::Release() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (Connection& connection : connections_) {
    if (connection.fault != Fault::kHoldRequest) continue;
    SendAll(connection.server, connection.held.data(), connection.held.size());
    connection.held.clear();
    connection.fault = Fault::kLoseReply;
  }
  const auto waiting = [this] {
    for (const Connection& connection : connections_) {
      if (connection.fault == Fault::kLoseReply) return true;
    }
    return false;
  };
  while (waiting()) {
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(kTickMs));
    lock.lock();
  }
}

void TcpProxy::CutAll() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Connection& connection : connections_) Remove(connection);
  connections_.clear();
}

int64_t TcpProxy::requests() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

int64_t TcpProxy::connections() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return accepted_;
}

void TcpProxy::Loop() {
  while (true) {
    std::vector<pollfd> descriptors = {{.fd = listener_, .events = POLLIN}};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
      for (const Connection& connection : connections_) {
        descriptors.push_back({.fd = connection.client, .events = POLLIN});
        descriptors.push_back({.fd = connection.server, .events = POLLIN});
      }
    }
    if (poll(descriptors.data(), descriptors.size(), kTickMs) <= 0) continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto ready = [&](int descriptor) {
      for (const pollfd& entry : descriptors) {
        if (descriptor >= 0 && entry.fd == descriptor) return entry.revents != 0;
      }
      return false;
    };
    for (Connection& connection : connections_) {
      if (ready(connection.client)) FromClient(connection);
      if (ready(connection.server)) FromServer(connection);
    }
    connections_.remove_if([](const Connection& connection) { return connection.server < 0; });
    if (ready(listener_)) Accept();
  }
}

void TcpProxy::Accept() {
  const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  const int server = ConnectTo(target_);
  if (server < 0) {
    close(client);
    return;
  }
  const int yes = 1;
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  ++accepted_;
  connections_.push_back({.client = client, .server = server});
}

void TcpProxy::FromClient(Connection& connection) {
  char bytes[65536];
  const ssize_t n = recv(connection.client, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return Remove(connection);
  if (!connection.in_request) {
    connection.in_request = true;
    ++requests_;
    if (skip_ > 0) {
      --skip_;
    } else if (times_ > 0) {
      --times_;
      connection.fault = fault_;
    }
  }
  if (connection.fault == Fault::kLoseRequest) return Remove(connection);
  if (connection.fault == Fault::kHoldRequest) {
    connection.held.assign(bytes, static_cast<size_t>(n));
    close(connection.client);
    connection.client = -1;
    return;
  }
  if (!SendAll(connection.server, bytes, static_cast<size_t>(n))) Remove(connection);
}

void TcpProxy::FromServer(Connection& connection) {
  char bytes[65536];
  const ssize_t n = recv(connection.server, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0 || connection.fault == Fault::kLoseReply) return Remove(connection);
  connection.in_request = false;
  if (!SendAll(connection.client, bytes, static_cast<size_t>(n))) Remove(connection);
}

void TcpProxy::Remove(Connection& connection) {
  if (connection.client >= 0) close(connection.client);
  if (connection.server >= 0) close(connection.server);
  connection = Connection();
}

}  // namespace cvxq
