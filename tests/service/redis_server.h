// A real redis-server for tests: in a scratch folder, on a socket file, with every write flushed.
#ifndef CVXQ_TESTS_SERVICE_REDIS_SERVER_H_
#define CVXQ_TESTS_SERVICE_REDIS_SERVER_H_

#include <signal.h>
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace cvxq {

class RedisServer {
 public:
  // Whether PATH has redis-server; tests without it are skipped with kMissing.
  static bool Installed();
  static constexpr char kMissing[] = "no redis-server on PATH: the tests with Redis are skipped";

  // Runs in `folder`, whose data it takes up, with `options` behind its own ("--requirepass", ...).
  // It ends with this process at the latest.
  explicit RedisServer(const std::string& folder, const std::vector<std::string>& options = {});
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  void Kill();   // kill -9
  void Start();  // again, after Kill; waits until it answers
  // It takes connections and requests but does nothing until Thaw.
  void Freeze() { kill(pid_, SIGSTOP); }
  void Thaw() { kill(pid_, SIGCONT); }

  // The files of its data, by name, as a backup would have them now; and others in their place,
  // while it does not run.
  std::map<std::string, std::string> DataFiles() const;
  void Replace(const std::map<std::string, std::string>& files);

  std::string socket_path() const { return folder_ + "/s"; }
  std::string address() const { return "redis+unix://" + socket_path(); }

 private:
  const std::string folder_;
  const std::vector<std::string> options_;
  pid_t pid_ = -1;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_REDIS_SERVER_H_
