// Who may call, how often, and for which projects.
//
// A token file has one line for each caller; lines that begin with # are comments:
//
//   NAME TOKEN PROJECT[,PROJECT...]        or * for all projects
//
// Callers send "authorization: Bearer TOKEN". Only digests of tokens are kept in memory, and each
// is compared in constant time; nothing of a token is ever logged.
#ifndef CVXQ_SERVICE_API_ACCESS_H_
#define CVXQ_SERVICE_API_ACCESS_H_

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace cvxq {

struct Caller {
  std::string name;                   // for limits and logs
  std::vector<std::string> projects;  // empty: all

  // kPermissionDenied PROJECT_DENIED, whether or not the project has anything.
  Status CheckProject(const std::string& project) const;
};

// Thread-safe once made.
class Access {
 public:
  // kInvalidArgument for a line that is no caller, naming the line but not what stands in it.
  static StatusOr<Access> Parse(const std::string& token_file);
  // Everybody who can connect may do everything.
  Access() = default;

  // `header`: of "authorization", empty if there is none; `peer` names a caller where no tokens are
  // used. kUnauthenticated TOKEN_INVALID.
  StatusOr<Caller> Authenticate(const std::string& header, const std::string& peer) const;

 private:
  struct Entry {
    Caller caller;
    std::string digest;
  };
  bool open_ = true;
  std::vector<Entry> entries_;
};

// A bucket of tokens for each caller: `rate` requests a second, and twice as many at once.
class RateLimit {
 public:
  explicit RateLimit(double rate) : rate_(rate) {}
  // kResourceExhausted RATE_LIMITED with the time to wait.
  Status Take(const std::string& caller, absl::Time now);

 private:
  struct Bucket {
    double tokens;
    absl::Time updated;
  };
  const double rate_;
  std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_ACCESS_H_
