#include "tests/service/redis_server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "absl/strings/str_split.h"
#include "service/store/redis_connection.h"

namespace cvxq {

bool RedisServer::Installed() {
  const char* path = std::getenv("PATH");
  for (const absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    if (access(absl::StrCat(folder, "/redis-server").c_str(), X_OK) == 0) return true;
  }
  return false;
}

RedisServer::RedisServer(const std::string& folder, const std::vector<std::string>& options)
    : folder_(folder), options_(options) {
  Start();
}

RedisServer::~RedisServer() { Kill(); }

void RedisServer::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::map<std::string, std::string> RedisServer::DataFiles() const {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
    const std::string name = std::filesystem::relative(entry.path(), folder_).string();
    if (!entry.is_regular_file() || name.find("aof") == std::string::npos) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[name].assign(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

void RedisServer::Replace(const std::map<std::string, std::string>& files) {
  for (const auto& [name, bytes] : DataFiles()) std::filesystem::remove(folder_ + "/" + name);
  for (const auto& [name, bytes] : files) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
  }
}

void RedisServer::Start() {
  std::vector<std::string> words = {"redis-server",
                                    "--port",
                                    "0",
                                    "--unixsocket",
                                    socket_path(),
                                    "--dir",
                                    folder_,
                                    "--appendonly",
                                    "yes",
                                    "--appendfsync",
                                    "always",
                                    "--save",
                                    ""};
  words.insert(words.end(), options_.begin(), options_.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const std::string log = folder_ + "/redis.log";
  unlink(socket_path().c_str());  // of a server that was killed
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execvp("redis-server", arguments.data());
    _exit(127);
  }
  const StatusOr<RedisAddress> address = ParseRedisAddress(this->address());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    RedisConnection connection(*address, "", {.attempts = 1});
    const StatusOr<RedisReply> pong = connection.Call({"PING"});
    if (pong.ok() || absl::IsPermissionDenied(pong.status())) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  throw std::runtime_error("redis-server does not answer; see " + log);
}

}  // namespace cvxq
