#include "service/names.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "service/errors.h"

namespace cvxq {
namespace {

StatusOr<JobName> Parse(const std::string& name, const std::string& collection) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() == 4 && parts[0] == "projects" && IsId(parts[1]) && parts[2] == collection &&
      IsId(parts[3])) {
    return JobName{parts[1], parts[3]};
  }
  return BadFieldError("name", absl::StrCat("must be projects/PROJECT/", collection, "/ID"));
}

}  // namespace

bool IsId(const std::string& text) {
  if (text.empty() || text.size() > 63 || text.back() == '-') return false;
  if (!absl::ascii_islower(static_cast<unsigned char>(text[0]))) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
  });
}

StatusOr<JobName> ParseJobName(const std::string& name) { return Parse(name, "quantizeModelJobs"); }

StatusOr<JobName> ParseOperationName(const std::string& name) { return Parse(name, "operations"); }

StatusOr<JobName> ParseParent(const std::string& field, const std::string& parent) {
  const std::vector<std::string> parts = absl::StrSplit(parent, '/');
  if (parts.size() == 2 && parts[0] == "projects" && IsId(parts[1])) return JobName{parts[1], ""};
  return BadFieldError(field, "must be projects/PROJECT");
}

}  // namespace cvxq
