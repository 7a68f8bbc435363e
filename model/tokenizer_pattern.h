// What Split and Replace look for: a literal string or an Oniguruma regular expression.
#ifndef CVXQ_MODEL_TOKENIZER_PATTERN_H_
#define CVXQ_MODEL_TOKENIZER_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "base/status.h"

struct re_pattern_buffer;
struct re_registers;

namespace cvxq::tokenization {

// Scratch for searches; one for each thread.
class MatchRegion {
 public:
  MatchRegion();
  ~MatchRegion();
  MatchRegion(const MatchRegion&) = delete;
  MatchRegion& operator=(const MatchRegion&) = delete;
  re_registers* get() const { return region_; }

 private:
  re_registers* region_;
};

// Immutable; may be used from any thread.
class Pattern {
 public:
  // Errors: an empty literal.
  static StatusOr<Pattern> Literal(std::string text);
  // Errors: Oniguruma's reason.
  static StatusOr<Pattern> Regex(const std::string& expression);

  // Calls visit(begin, end, is_match) for ranges that follow one another and cover `text` (valid
  // UTF-8): leftmost matches and what lies between them. Matches may be empty. A regex that exceeds
  // the limits on backtracking or memory finds nothing more in this text.
  void ForEachRange(std::string_view text, MatchRegion& region,
                    absl::FunctionRef<void(size_t, size_t, bool)> visit) const;

  // How many times longer a text can get, at most, when `content_size` bytes replace each match.
  size_t Growth(size_t content_size) const;

 private:
  Pattern() = default;
  // The first match at or after `from`.
  bool Find(std::string_view text, size_t from, MatchRegion& region, size_t* begin,
            size_t* end) const;

  std::string literal_;
  std::shared_ptr<re_pattern_buffer> regex_;  // null: a literal
};

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_PATTERN_H_
