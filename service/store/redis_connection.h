// One connection to a Redis server that mends itself: every command is sent again, on a new
// connection, where its reply does not come.
#ifndef CVXQ_SERVICE_STORE_REDIS_CONNECTION_H_
#define CVXQ_SERVICE_STORE_REDIS_CONNECTION_H_

#include <hiredis/hiredis.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

// Where a server listens: at a port, or at a socket file (`path` is not empty).
struct RedisAddress {
  std::string host;
  int port = 6379;
  std::string path;
  int database = 0;
  std::string text;  // as it was given, for messages
};

// redis://HOST[:PORT][/DB] (an IPv6 address in brackets) or redis+unix://PATH[?db=N].
// kInvalidArgument for anything else, and for an address with a password in it.
StatusOr<RedisAddress> ParseRedisAddress(const std::string& address);

struct RedisOptions {
  int connect_timeout_ms = 2000;
  int command_timeout_ms = 5000;  // without a byte sent or received
  int attempts = 4;               // of one command
  int first_pause_ms = 20;        // between them; each later one is five times longer
};

struct RedisReplyDeleter {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using RedisReply = std::unique_ptr<redisReply, RedisReplyDeleter>;

// For one thread at a time.
class RedisConnection {
 public:
  // Connects with the first command. `password`: empty for none; never part of a message.
  RedisConnection(RedisAddress address, std::string password, const RedisOptions& options);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // Sends a command and waits for its reply, which is no error. The command may be executed several
  // times, also after this has returned kUnavailable (a request that waits in a network or in a
  // stopped server): it must be one that does no harm. kUnavailable: nobody answers, or the server
  // cannot now; kResourceExhausted: its memory is full; kPermissionDenied: its password or its
  // rights; kDataLoss: keys of another kind; kFailedPrecondition: it is part of a cluster.
  StatusOr<RedisReply> Call(const std::vector<std::string>& command);
  // The same with a script, which the server knows by its digest after the first time.
  StatusOr<RedisReply> CallScript(const std::string& script, const std::vector<std::string>& keys,
                                  const std::vector<std::string>& arguments);

  const std::string& address() const { return address_.text; }

 private:
  struct ContextDeleter {
    void operator()(redisContext* context) const { redisFree(context); }
  };

  // One attempt: a reply, which may be an error of the server's, or kUnavailable with the
  // connection closed.
  StatusOr<RedisReply> Exchange(const std::vector<std::string>& command);
  // A new context each time: one that failed keeps neither its timeouts nor its place in the
  // stream.
  Status Connect();
  Status Send(const std::vector<std::string>& command);
  Status Broken(const std::string& reason);
  // What an error of the server means.
  Status ServerError(const std::string& text) const;

  const RedisAddress address_;
  const std::string password_;
  const RedisOptions options_;
  std::unique_ptr<redisContext, ContextDeleter> context_;  // null: not connected
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORE_REDIS_CONNECTION_H_
