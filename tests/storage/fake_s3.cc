#include "tests/storage/fake_s3.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "tests/storage/fake_s3_text.h"

namespace cvxq {
namespace {

using fake_s3::Between;
using fake_s3::Decode;
using fake_s3::Digest;
using fake_s3::Encode;
using fake_s3::Hex;
using fake_s3::Hmac;
using fake_s3::Split;
using fake_s3::Value;

constexpr char kAccessKey[] = "AKIDEXAMPLE";
constexpr char kRegion[] = "test-region-1";

}  // namespace

// One client's socket. Closed by its owner.
class FakeS3::Connection {
 public:
  explicit Connection(int socket) : socket_(socket) {}

  // Up to the end of the headers; empty at the end of the stream.
  std::string Head() {
    size_t end;
    while ((end = pending_.find("\r\n\r\n")) == std::string::npos) {
      if (!More()) return "";
    }
    std::string head = pending_.substr(0, end + 2);
    pending_.erase(0, end + 4);
    return head;
  }
  bool Body(size_t size, std::string& body) {
    while (pending_.size() < size) {
      if (!More()) return false;
    }
    body = pending_.substr(0, size);
    pending_.erase(0, size);
    return true;
  }
  bool Send(const std::string& bytes) {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t n = send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return false;
      sent += n;
    }
    return true;
  }
  // Closing resets the connection then.
  void Reset() {
    const linger off = {.l_onoff = 1, .l_linger = 0};
    setsockopt(socket_, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
  }

 private:
  bool More() {
    char buffer[65536];
    const ssize_t n = recv(socket_, buffer, sizeof(buffer), 0);
    if (n <= 0) return false;
    pending_.append(buffer, n);
    return true;
  }
  const int socket_;
  std::string pending_;
};

FakeS3::FakeS3() {
  setenv("no_proxy", "127.0.0.1", 1);  // whatever the machine's own settings are
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener_, 256) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::perror("the fake S3 server cannot listen");
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

void FakeS3::SetEnvironment() {
  in_environment_ = true;
  setenv("AWS_ENDPOINT_URL", endpoint().c_str(), 1);
  setenv("AWS_REGION", kRegion, 1);
  setenv("AWS_ACCESS_KEY_ID", kAccessKey, 1);
  setenv("AWS_SECRET_ACCESS_KEY", kSecret, 1);
  setenv("AWS_SESSION_TOKEN", kToken, 1);
}

FakeS3::~FakeS3() {
  if (in_environment_) {
    for (const char* name : {"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID",
                             "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}) {
      unsetenv(name);
    }
  }
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    for (const int socket : sockets_) shutdown(socket, SHUT_RDWR);
  }
  changed_.notify_all();
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  for (std::thread& server : servers_) server.join();
}

std::string FakeS3::endpoint() const { return "http://127.0.0.1:" + std::to_string(port_); }

S3Config FakeS3::Config(const std::string& prefix) const {
  return {.bucket = kBucket,
          .prefix = prefix,
          .endpoint = endpoint(),
          .host = endpoint().substr(7),
          .bucket_in_path = true,
          .region = kRegion,
          .credentials = {
              .access_key_id = kAccessKey, .secret_access_key = kSecret, .session_token = kToken}};
}

void FakeS3::Put(const std::string& key, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  objects_[key] = {bytes, "\"" + Digest(EVP_md5(), bytes) + "\"", ""};
}

void FakeS3::Remove(const std::string& key) {
  const std::lock_guard lock(mutex_);
  objects_.erase(key);
}

std::map<std::string, std::string> FakeS3::objects() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::string> copy;
  for (const auto& [key, object] : objects_) copy[key] = object.bytes;
  return copy;
}

int FakeS3::unfinished_uploads() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(uploads_.size());
}

int FakeS3::count(S3Op op) const {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(op);
  return found == counts_.end() ? 0 : found->second;
}

int64_t FakeS3::body_bytes_sent() const {
  const std::lock_guard lock(mutex_);
  return body_bytes_sent_;
}

std::vector<std::string> FakeS3::complaints() const {
  const std::lock_guard lock(mutex_);
  return complaints_;
}

void FakeS3::Accept() {
  while (true) {
    const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const std::lock_guard lock(mutex_);
    if (stop_) {
      if (socket >= 0) close(socket);
      return;
    }
    if (socket < 0) continue;
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    sockets_.insert(socket);
    servers_.emplace_back([this, socket] { Serve(socket); });
  }
}

void FakeS3::Serve(int socket) {
  Connection connection(socket);
  while (ServeOne(connection)) {
  }
  const std::lock_guard lock(mutex_);
  sockets_.erase(socket);
  close(socket);
}

// Whether the connection goes on.
bool FakeS3::ServeOne(Connection& connection) {
  const std::string head = connection.Head();
  if (head.empty()) return false;
  Request request;
  std::istringstream lines(head);
  lines >> request.method >> request.target;
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    const size_t colon = line.find(':');
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    const size_t begin = line.find_first_not_of(' ', colon + 1);
    request.headers[name] = line.substr(begin, line.size() - begin - 1);
  }
  const size_t mark = request.target.find('?');
  request.path = request.target.substr(0, mark);
  if (mark != std::string::npos) {
    for (const std::string& pair : Split(request.target.substr(mark + 1), '&')) {
      const size_t equals = pair.find('=');
      request.query[Decode(pair.substr(0, equals))] =
          equals == std::string::npos ? "" : Decode(pair.substr(equals + 1));
    }
  }
  const std::string root = std::string("/") + kBucket;
  if (request.path.size() > root.size() + 1)
    request.key = Decode(request.path).substr(root.size() + 1);
  const size_t length = std::strtoul(Value(request.headers, "content-length").c_str(), nullptr, 10);
  if (!connection.Body(length, request.body)) return false;
  request.op = Classify(request);

  const std::string wrong = request.op == S3Op::kUnknown || request.path.rfind(root, 0) != 0
                                ? "unknown request"
                                : SignatureError(request);
  S3Fault fault;
  bool broken = false;
  {
    std::unique_lock lock(mutex_);
    broken = ChooseFault(request, fault);
    if (!wrong.empty()) {
      complaints_.push_back(wrong + ": " + request.method + " " + request.target);
    }
    if (broken && fault.kind == S3Fault::kNoAnswer) {
      changed_.wait(lock, [&] { return stop_; });
      return false;
    }
  }
  if (!wrong.empty()) {
    Send(connection, request, Error(403, "SignatureDoesNotMatch"), nullptr);
    return true;
  }
  if (!broken) {
    Send(connection, request, Do(request), nullptr);
    return true;
  }
  switch (fault.kind) {
    case S3Fault::kAnswer: {
      Answer answer = Error(fault.status, fault.text);
      if (fault.status == 301) answer.headers["x-amz-bucket-region"] = "far-away-7";
      Send(connection, request, answer, nullptr);
      return true;
    }
    case S3Fault::kErrorIn200: {
      Answer answer = Error(200, fault.text);
      Send(connection, request, answer, nullptr);
      return true;
    }
    case S3Fault::kBody: {
      const Answer answer = {.status = fault.status, .body = fault.text};
      Send(connection, request, answer, nullptr);
      return true;
    }
    case S3Fault::kRaw:
      connection.Send(fault.text);
      return false;
    case S3Fault::kResetBefore:
      connection.Reset();
      return false;
    case S3Fault::kResetAfter:
      Do(request);
      connection.Reset();
      return false;
    case S3Fault::kLostReply:
      Do(request);
      connection.Send("HTTP/1.1 200 OK\r\nDate: today\r\n");
      return false;
    case S3Fault::kLate:
      std::this_thread::sleep_for(std::chrono::milliseconds(fault.status));
      Send(connection, request, Do(request), nullptr);
      return true;
    case S3Fault::kDrip:
      Send(connection, request, Do(request), &fault);
      return true;
    case S3Fault::kReplaced: {
      const Answer answer = Do(request);
      Put(request.key, fault.text);
      Send(connection, request, answer, &fault);
      return false;
    }
    default:
      Send(connection, request, Do(request), &fault);
      return false;
  }
}

S3Op FakeS3::Classify(const Request& request) {
  const std::string& method = request.method;
  const bool upload = request.query.count("uploadId") > 0;
  if (request.key.empty()) {
    return method == "GET" && Value(request.query, "list-type") == "2" ? S3Op::kList
                                                                       : S3Op::kUnknown;
  }
  if (method == "GET") return upload ? S3Op::kListParts : S3Op::kGet;
  if (method == "HEAD") return S3Op::kHead;
  if (method == "PUT") return upload ? S3Op::kPutPart : S3Op::kPut;
  if (method == "DELETE") return upload ? S3Op::kAbort : S3Op::kDelete;
  if (method == "POST") return upload ? S3Op::kComplete : S3Op::kStartUpload;
  return S3Op::kUnknown;
}

// Computed from what came over the wire. Empty: it is right.
std::string FakeS3::SignatureError(const Request& request) const {
  const std::string authorization = Value(request.headers, "authorization");
  const std::string date = Value(request.headers, "x-amz-date");
  const std::string claimed_digest = Value(request.headers, "x-amz-content-sha256");
  if (authorization.empty() || date.size() != 16) return "not signed";
  if (claimed_digest != Digest(EVP_sha256(), request.body)) return "wrong x-amz-content-sha256";
  if (Value(request.headers, "x-amz-security-token") != kToken) return "wrong token";

  const std::string scope = date.substr(0, 8) + "/" + kRegion + "/s3/aws4_request";
  const std::string names = Between(authorization, "SignedHeaders=", ",");
  std::string canonical = request.method + "\n" + Encode(Decode(request.path), "/") + "\n";
  std::string query;
  for (const auto& [name, value] : request.query) {  // sorted, as no name begins another here
    query += (query.empty() ? "" : "&") + Encode(name, "") + "=" + Encode(value, "");
  }
  canonical += query + "\n";
  std::set<std::string> listed;
  for (const std::string& name : Split(names, ';')) {
    if (!listed.insert(name).second) return "a header is signed twice";
    canonical += name + ":" + Value(request.headers, name) + "\n";
  }
  for (const auto& [name, value] : request.headers) {
    const bool must = name == "host" || name.rfind("x-amz-", 0) == 0 || name.rfind("if-", 0) == 0;
    if (must && listed.count(name) == 0) return "not signed: " + name;
  }
  canonical += "\n" + names + "\n" + claimed_digest;
  std::string key = std::string("AWS4") + kSecret;
  key = Hmac(Hmac(Hmac(Hmac(key, date.substr(0, 8)), kRegion), "s3"), "aws4_request");
  const std::string signature = Hmac(
      key, "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + Digest(EVP_sha256(), canonical));
  const std::string expected =
      Hex(reinterpret_cast<const unsigned char*>(signature.data()), signature.size());
  if (authorization.rfind(std::string("AWS4-HMAC-SHA256 Credential=") + kAccessKey + "/" + scope,
                          0) != 0) {
    return "wrong scope";
  }
  return Between(authorization, "Signature=", ",") == expected ? "" : "wrong signature";
}

void FakeS3::Send(Connection& connection, const Request& request, const Answer& answer,
                  const S3Fault* fault) {
  const bool head = request.method == "HEAD";
  int64_t length = head ? std::atoll(Value(answer.headers, "content-length").c_str())
                        : static_cast<int64_t>(answer.body.size());
  std::string body = head ? "" : answer.body;
  if (fault != nullptr && fault->kind == S3Fault::kWrongLength) length += fault->status;
  if (fault != nullptr &&
      (fault->kind == S3Fault::kTruncated || fault->kind == S3Fault::kReplaced)) {
    body.resize(body.size() / 2);
  }
  std::string lines = "HTTP/1.1 " + std::to_string(answer.status) + " Answer\r\n";
  for (const auto& [name, value] : answer.headers) {
    if (name != "content-length") lines += name + ": " + value + "\r\n";
  }
  if (answer.status != 204) lines += "Content-Length: " + std::to_string(length) + "\r\n";
  {
    const std::lock_guard lock(mutex_);
    if (request.op == S3Op::kGet) body_bytes_sent_ += body.size();
  }
  if (fault == nullptr || fault->kind != S3Fault::kDrip) {
    connection.Send(lines + "\r\n" + body);
    return;
  }
  connection.Send(lines + "\r\n");
  const size_t piece = body.size() / 50 + 1;
  for (size_t i = 0; i < body.size(); i += piece) {
    connection.Send(body.substr(i, piece));
    std::this_thread::yield();
  }
}

}  // namespace cvxq
