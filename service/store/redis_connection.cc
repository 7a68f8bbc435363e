#include "service/store/redis_connection.h"

#include <openssl/sha.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

timeval Milliseconds(int ms) { return {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000}; }

Status BadAddress(const std::string& address) {
  return absl::InvalidArgumentError(
      absl::StrCat("cannot understand the address ", Quoted(address),
                   ": give redis://HOST[:PORT][/DB] or redis+unix://PATH[?db=N]"));
}

bool ParseNumber(const std::string& text, int least, int most, int& number) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
         absl::SimpleAtoi(text, &number) && number >= least && number <= most;
}

std::string Sha1Hex(const std::string& text) {
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

// Errors that pass by themselves.
bool Passing(absl::string_view text) {
  for (const char* code :
       {"LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "ERR max number of clients"}) {
    if (absl::StartsWith(text, code)) return true;
  }
  return false;
}

std::string ErrorText(const redisReply& reply) { return std::string(reply.str, reply.len); }

}  // namespace

StatusOr<RedisAddress> ParseRedisAddress(const std::string& address) {
  RedisAddress result = {.text = address};
  absl::string_view rest = address;
  if (address.find('\0') != std::string::npos) return BadAddress(address);
  if (absl::ConsumePrefix(&rest, "redis+unix://")) {
    const size_t query = rest.rfind("?db=");
    if (query != rest.npos) {
      if (!ParseNumber(std::string(rest.substr(query + 4)), 0, 1 << 20, result.database)) {
        return BadAddress(address);
      }
      rest = rest.substr(0, query);
    }
    if (rest.empty()) return BadAddress(address);
    result.path = std::string(rest);
    return result;
  }
  if (!absl::ConsumePrefix(&rest, "redis://")) return BadAddress(address);
  if (absl::StrContains(rest, "@")) {
    return absl::InvalidArgumentError(
        "the address of a Redis server must hold no password: give it in CVXQ_REDIS_PASSWORD");
  }
  const size_t slash = rest.find('/');
  if (slash != rest.npos) {
    const std::string database(rest.substr(slash + 1));
    if (!database.empty() && !ParseNumber(database, 0, 1 << 20, result.database)) {
      return BadAddress(address);
    }
    rest = rest.substr(0, slash);
  }
  const size_t bracket = rest.find(']');
  const size_t colon = rest.find(':', bracket == rest.npos ? 0 : bracket);
  if (colon != rest.npos) {
    if (!ParseNumber(std::string(rest.substr(colon + 1)), 1, 65535, result.port)) {
      return BadAddress(address);
    }
    rest = rest.substr(0, colon);
  }
  if (absl::ConsumePrefix(&rest, "[") && !absl::ConsumeSuffix(&rest, "]")) {
    return BadAddress(address);
  }
  if (rest.empty()) return BadAddress(address);
  result.host = std::string(rest);
  return result;
}

RedisConnection::RedisConnection(RedisAddress address, std::string password,
                                 const RedisOptions& options)
    : address_(std::move(address)), password_(std::move(password)), options_(options) {}

RedisConnection::~RedisConnection() = default;

StatusOr<RedisReply> RedisConnection::Call(const std::vector<std::string>& command) {
  int pause_ms = options_.first_pause_ms;
  for (int attempt = 1;; ++attempt) {
    StatusOr<RedisReply> reply = Exchange(command);
    Status status = reply.status();
    if (reply.ok()) {
      if ((*reply)->type != REDIS_REPLY_ERROR) return reply;
      status = ServerError(ErrorText(**reply));
      if (!Passing(ErrorText(**reply))) return status;
    }
    if (attempt >= options_.attempts || !absl::IsUnavailable(status)) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
    pause_ms *= 5;
  }
}

StatusOr<RedisReply> RedisConnection::CallScript(const std::string& script,
                                                 const std::vector<std::string>& keys,
                                                 const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {"EVALSHA", Sha1Hex(script), absl::StrCat(keys.size())};
  command.insert(command.end(), keys.begin(), keys.end());
  command.insert(command.end(), arguments.begin(), arguments.end());
  StatusOr<RedisReply> reply = Call(command);
  if (!absl::IsNotFound(reply.status())) return reply;
  command[0] = "EVAL";
  command[1] = script;
  return Call(command);
}

StatusOr<RedisReply> RedisConnection::Exchange(const std::vector<std::string>& command) {
  if (context_ == nullptr) CVXQ_RETURN_IF_ERROR(Connect());
  CVXQ_RETURN_IF_ERROR(Send(command));
  void* reply = nullptr;
  if (redisGetReply(context_.get(), &reply) != REDIS_OK) {
    // A blocking socket whose timeout passes gives EAGAIN.
    const bool late = context_->err == REDIS_ERR_IO && (errno == EAGAIN || errno == ETIMEDOUT);
    return Broken(late ? "no answer in time" : context_->errstr);
  }
  return RedisReply(static_cast<redisReply*>(reply));
}

Status RedisConnection::Connect() {
  const timeval timeout = Milliseconds(options_.connect_timeout_ms);
  context_.reset(address_.path.empty()
                     ? redisConnectWithTimeout(address_.host.c_str(), address_.port, timeout)
                     : redisConnectUnixWithTimeout(address_.path.c_str(), timeout));
  if (context_ == nullptr) return absl::ResourceExhaustedError("out of memory");
  if (context_->err != 0) return Broken(context_->errstr);
  if (redisSetTimeout(context_.get(), Milliseconds(options_.command_timeout_ms)) != REDIS_OK) {
    return Broken(context_->errstr);
  }
  if (address_.path.empty()) redisEnableKeepAlive(context_.get());
  std::vector<std::vector<std::string>> greetings;
  if (!password_.empty()) greetings.push_back({"AUTH", password_});
  if (address_.database != 0) greetings.push_back({"SELECT", absl::StrCat(address_.database)});
  for (const std::vector<std::string>& greeting : greetings) {
    CVXQ_ASSIGN_OR_RETURN(const RedisReply reply, Exchange(greeting));
    if (reply->type == REDIS_REPLY_ERROR) {
      context_.reset();
      return ServerError(ErrorText(*reply));
    }
  }
  return absl::OkStatus();
}

// hiredis writes without MSG_NOSIGNAL, so that a connection that the server has closed would end
// the process with SIGPIPE; it only reads here.
Status RedisConnection::Send(const std::vector<std::string>& command) {
  std::vector<const char*> words;
  std::vector<size_t> sizes;
  for (const std::string& word : command) {
    words.push_back(word.data());
    sizes.push_back(word.size());
  }
  char* formatted = nullptr;
  const int size = redisFormatCommandArgv(&formatted, static_cast<int>(words.size()), words.data(),
                                          sizes.data());
  if (size < 0) return absl::ResourceExhaustedError("out of memory");
  const std::unique_ptr<char, decltype(&redisFreeCommand)> bytes(formatted, redisFreeCommand);
  for (int sent = 0; sent < size;) {
    const ssize_t n = send(context_->fd, formatted + sent, size - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Broken(errno == EAGAIN ? "it takes no request in time"
                                    : std::generic_category().message(errno));
    }
    sent += static_cast<int>(n);
  }
  return absl::OkStatus();
}

Status RedisConnection::Broken(const std::string& reason) {
  const Status status = absl::UnavailableError(absl::StrCat(
      "no answer from the Redis server at ", address_.text, ": ", reason, "; see that it runs"));
  context_.reset();
  return status;
}

Status RedisConnection::ServerError(const std::string& text) const {
  const auto says = [&](const char* code) { return absl::StartsWith(text, code); };
  const std::string what =
      absl::StrCat("the Redis server at ", address_.text, " says ", Quoted(text));
  if (says("NOSCRIPT")) return absl::NotFoundError(what);
  if (says("NOAUTH") || says("WRONGPASS") || says("NOPERM") || says("DENIED") ||
      absl::StrContains(text, "invalid password") ||
      absl::StrContains(text, "without any password")) {
    return absl::PermissionDeniedError(absl::StrCat(what, "; see CVXQ_REDIS_PASSWORD"));
  }
  if (absl::StrContains(text, "OOM command not allowed")) {
    return absl::ResourceExhaustedError(absl::StrCat(what, "; give it more memory (maxmemory)"));
  }
  if (says("READONLY")) {
    return absl::UnavailableError(absl::StrCat(what, "; give the address of the primary server"));
  }
  if (absl::StrContains(text, "MISCONF")) {
    return absl::UnavailableError(absl::StrCat(what, "; check its disk"));
  }
  if (absl::StrContains(text, "WRONGTYPE")) {
    return absl::DataLossError(
        absl::StrCat(what, "; another program uses the same keys: choose another database"));
  }
  if (says("MOVED") || says("ASK") || says("CROSSSLOT")) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, "; give a server that is no part of a cluster"));
  }
  return Passing(text) ? absl::UnavailableError(what) : absl::InternalError(what);
}

}  // namespace cvxq
