#include "service/job_filter.h"

#include <openssl/sha.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "service/errors.h"
#include "service/names.h"

namespace cvxq {
namespace {

constexpr size_t kLongestFilter = 1024;

struct Term {
  Job::State state;
  bool equal;

  bool Holds(const Job& job) const { return (job.state() == state) == equal; }
};

StatusOr<Term> ParseTerm(absl::string_view text) {
  const bool equal = !absl::StrContains(text, "!=");
  const std::vector<std::string> sides =
      absl::StrSplit(text, absl::MaxSplits(absl::string_view(equal ? "=" : "!="), 1));
  Job::State state;
  if (sides.size() == 2 && absl::StripAsciiWhitespace(sides[0]) == "state" &&
      Job::State_Parse(std::string(absl::StripAsciiWhitespace(sides[1])), &state) &&
      state != Job::STATE_UNSPECIFIED) {
    return Term{state, equal};
  }
  return BadFieldError("filter",
                       "must be made of terms like state = RUNNING, with AND and OR between them");
}

// Ties a token to its query. Tokens are no secret: a made-up one only begins somewhere else.
std::string QueryHash(const std::string& query) {
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(query.data()), query.size(), hash);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash), 8));
}

}  // namespace

StatusOr<std::function<bool(const Job&)>> ParseFilter(const std::string& filter) {
  if (filter.size() > kLongestFilter) {
    return BadFieldError("filter", absl::StrCat("has more than ", kLongestFilter, " bytes"));
  }
  std::vector<std::vector<Term>> all;  // of each at least one must hold
  if (!absl::StripAsciiWhitespace(filter).empty()) {
    for (const absl::string_view factor : absl::StrSplit(filter, " AND ")) {
      std::vector<Term>& any = all.emplace_back();
      for (const absl::string_view text : absl::StrSplit(factor, " OR ")) {
        CVXQ_ASSIGN_OR_RETURN(const Term term, ParseTerm(text));
        any.push_back(term);
      }
    }
  }
  return [all](const Job& job) {
    return std::all_of(all.begin(), all.end(), [&](const std::vector<Term>& any) {
      return std::any_of(any.begin(), any.end(), [&](const Term& term) { return term.Holds(job); });
    });
  };
}

std::string MakePageToken(const std::string& query, const std::string& after) {
  return absl::WebSafeBase64Escape(absl::StrCat(QueryHash(query), "/", after));
}

StatusOr<std::string> ParsePageToken(const std::string& query, const std::string& token) {
  if (token.empty()) return std::string();
  std::string text;
  if (absl::WebSafeBase64Unescape(token, &text)) {
    const std::vector<std::string> parts = absl::StrSplit(text, '/');
    if (parts.size() == 2 && parts[0] == QueryHash(query) && IsId(parts[1])) return parts[1];
  }
  return BadFieldError("page_token", "is not the token of a page of this list");
}

}  // namespace cvxq
