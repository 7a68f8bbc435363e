#include "service/api/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace cvxq {
namespace {

constexpr size_t kLongestRequest = 8192;
constexpr absl::Duration kPatience = absl::Seconds(2);  // for a whole request or response

StatusOr<sockaddr_in> ParseAddress(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  int port = 0;
  std::string host = listen.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) ||
      port < 0 || port > 65535 || inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot serve metrics on ", listen, ": give IPV4-ADDRESS:PORT"));
  }
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Whether the descriptor is ready before the deadline.
bool Ready(int descriptor, int16_t events, absl::Time deadline) {
  pollfd entry = {descriptor, events, 0};
  const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
  return left > 0 && poll(&entry, 1, static_cast<int>(left)) == 1;
}

// The head of a request, or what came of it.
std::string ReadRequest(int connection) {
  const absl::Time deadline = absl::Now() + kPatience;
  std::string request;
  char buffer[1024];
  while (request.size() < kLongestRequest && request.find("\r\n\r\n") == std::string::npos &&
         request.find("\n\n") == std::string::npos && Ready(connection, POLLIN, deadline)) {
    const ssize_t count = recv(connection, buffer, sizeof(buffer), 0);
    if (count <= 0) break;
    request.append(buffer, static_cast<size_t>(count));
  }
  return request;
}

void Write(int connection, std::string_view text) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!text.empty() && Ready(connection, POLLOUT, deadline)) {
    const ssize_t count = send(connection, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count <= 0) return;
    text.remove_prefix(static_cast<size_t>(count));
  }
}

std::string Response(const char* status, const std::string& body, const char* type = "text/plain") {
  return absl::StrCat("HTTP/1.0 ", status, "\r\nContent-Type: ", type,
                      "; charset=utf-8\r\nContent-Length: ", body.size(),
                      "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& listen,
                                                        HttpPages pages) {
  CVXQ_ASSIGN_OR_RETURN(sockaddr_in address, ParseAddress(listen));
  std::unique_ptr<HttpServer> server(new HttpServer);
  server->pages_ = std::move(pages);
  server->listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(server->listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (server->listener_ < 0 || bind(server->listener_, generic, size) != 0 ||
      ::listen(server->listener_, 64) != 0 || pipe(server->wake_) != 0 ||
      getsockname(server->listener_, generic, &size) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", listen, ": ", std::strerror(errno)));
  }
  server->port_ = ntohs(address.sin_port);
  server->thread_ = std::thread([raw = server.get()] { raw->Serve(); });
  return server;
}

HttpServer::~HttpServer() {
  if (thread_.joinable()) {
    close(wake_[1]);
    wake_[1] = -1;
    thread_.join();
  }
  for (const int descriptor : {listener_, wake_[0], wake_[1]}) {
    if (descriptor >= 0) close(descriptor);
  }
}

void HttpServer::Serve() {
  for (;;) {
    pollfd entries[2] = {{listener_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
    if (poll(entries, 2, -1) < 0 && errno != EINTR) return;
    if (entries[1].revents != 0) return;
    if (entries[0].revents == 0) continue;
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EMFILE || errno == ENFILE) absl::SleepFor(absl::Milliseconds(100));
      continue;
    }
    Answer(connection);
    close(connection);
  }
}

void HttpServer::Answer(int connection) const {
  const std::string request = ReadRequest(connection);
  const std::string line = request.substr(0, request.find_first_of("\r\n"));
  const auto asks = [&line](const std::string& path) {
    return line == "GET " + path || line.starts_with("GET " + path + " ") ||
           line.starts_with("GET " + path + "?");
  };
  if (asks("/metrics")) {
    Write(connection, Response("200 OK", pages_.metrics(), "text/plain; version=0.0.4"));
  } else if (asks("/healthz")) {
    Write(connection, Response("200 OK", "ok\n"));
  } else if (asks("/readyz")) {
    Write(connection, pages_.ready() ? Response("200 OK", "ready\n")
                                     : Response("503 Service Unavailable", "not ready\n"));
  } else {
    Write(connection, line.starts_with("GET ") ? Response("404 Not Found", "not found\n")
                                               : Response("400 Bad Request", "bad request\n"));
  }
}

}  // namespace cvxq
