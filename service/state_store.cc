#include "service/state_store.h"

#include "absl/strings/match.h"
#include "service/store/redis_store.h"
#include "service/store/sqlite_store.h"
#include "storage/errors.h"

namespace cvxq {

StatusOr<std::unique_ptr<StateStore>> OpenStateStore(const std::string& address) {
  if (absl::StartsWith(address, "redis://") || absl::StartsWith(address, "redis+unix://")) {
    CVXQ_ASSIGN_OR_RETURN(const RedisAddress redis, ParseRedisAddress(address));
    return OpenRedisStore(redis, RedisOptions());
  }
  const std::string kSqlite = "sqlite:";
  const bool plain = !absl::StartsWith(address, kSqlite);
  const std::string path = plain ? address : address.substr(kSqlite.size());
  if (path.empty() || path.find('\0') != std::string::npos || absl::StrContains(path, "://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot keep state in ", Quoted(address),
                     ": give sqlite:PATH, redis://HOST[:PORT][/DB] or redis+unix://PATH[?db=N]"));
  }
  return OpenSqliteStore(path);
}

}  // namespace cvxq
