// What both kinds of state store share: the limits on arguments and the wording of errors, so that
// a caller cannot tell one from the other.
#ifndef CVXQ_SERVICE_STORE_COMMON_H_
#define CVXQ_SERVICE_STORE_COMMON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "service/state_store.h"

namespace cvxq {

// kInvalidArgument unless the arguments keep to the limits of state_store.h.
Status CheckLogName(const std::string& name);
Status CheckShort(const std::string& what, const std::string& text);  // request id, digest, owner
Status CheckRecords(const std::vector<std::string>& records);
Status CheckSnapshot(const LogRecord& snapshot);
Status CheckReadRange(int64_t after, int64_t limit);

// The errors of StateStore's calls. `where` is the file or the server.
Status FencedError(int64_t epoch, int64_t newest, const std::string& where);
Status WentBackError(const std::string& where);
Status NoLogError(const std::string& name, const std::string& where);
Status LogExistsError(const std::string& name, const std::string& where);
Status NotLastError(const std::string& name, int64_t after, int64_t last);
Status CompactedError(const std::string& name, int64_t after, int64_t first);
Status BeyondEndError(const std::string& name, int64_t revision, int64_t last);
Status HoleError(const std::string& name, const std::string& where);

// The first string, in byte order, behind all that begin with `prefix`; empty: there is none.
std::string PrefixEnd(std::string prefix);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORE_COMMON_H_
