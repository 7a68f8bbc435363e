#include "storage/errors.h"

#include <cerrno>
#include <system_error>

#include "absl/strings/escaping.h"

namespace cvxq {
namespace {

constexpr size_t kLongestName = 120;

const char* Advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space there or choose another place";
    case EFBIG:
      return "; raise the limit on file sizes (ulimit -f) or choose another place";
    case ENOENT:
      return "; check the path";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; check the permissions or choose another place";
    default:
      return "";
  }
}

}  // namespace

Status ErrnoStatus(int error, const std::string& action, const std::string& path) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return Status(
      full ? absl::StatusCode::kResourceExhausted : absl::ErrnoToStatusCode(error),
      absl::StrCat(action, " ", path, ": ", std::generic_category().message(error), Advice(error)));
}

std::string Quoted(std::string_view name) {
  const bool whole = name.size() <= kLongestName;
  return absl::StrCat("\"", absl::CHexEscape(std::string(name.substr(0, kLongestName))),
                      whole ? "\"" : "...\"");
}

}  // namespace cvxq
