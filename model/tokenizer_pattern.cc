// Patterns on Oniguruma, the engine the `tokenizers` library itself uses, with limits.
#include "model/tokenizer_pattern.h"

#include <oniguruma.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

#include "absl/strings/escaping.h"
#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

constexpr size_t kLongestExpression = 1 << 16;

// Limits far above what tokenizers need for any sensible text, and low enough that a hostile
// expression costs seconds and megabytes, not hours and gigabytes. They are global to Oniguruma.
void InitializeOniguruma() {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
    onig_set_parse_depth_limit(128);
    onig_set_match_stack_limit_size(8u << 20);
    onig_set_retry_limit_in_match(10'000'000);
    onig_set_retry_limit_in_search(200'000'000);
    onig_set_subexp_call_limit_in_search(100'000);
    onig_set_subexp_call_max_nest_level(16);
  });
}

// Expressions with raw bytes can match parts of a character.
bool IsCharStart(std::string_view text, size_t at) {
  return at == text.size() || (static_cast<uint8_t>(text[at]) & 0xc0) != 0x80;
}

const OnigUChar* Bytes(const char* text) { return reinterpret_cast<const OnigUChar*>(text); }

}  // namespace

MatchRegion::MatchRegion() : region_(onig_region_new()) {
  if (region_ == nullptr) throw std::bad_alloc();
}
MatchRegion::~MatchRegion() { onig_region_free(region_, /*free_self=*/1); }

StatusOr<Pattern> Pattern::Literal(std::string text) {
  if (text.empty()) return absl::DataLossError("an empty string as pattern");
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

StatusOr<Pattern> Pattern::Regex(const std::string& expression) {
  InitializeOniguruma();
  if (expression.size() > kLongestExpression) {
    return absl::DataLossError(
        absl::StrCat("a regular expression of ", expression.size(), " bytes"));
  }
  regex_t* regex = nullptr;
  OnigErrorInfo info;
  const char* text = expression.data();
  const int code = onig_new(&regex, Bytes(text), Bytes(text + expression.size()), ONIG_OPTION_NONE,
                            ONIG_ENCODING_UTF8, ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
    const int length = onig_error_code_to_str(message, code, &info);
    return absl::DataLossError(
        absl::StrCat("a regular expression that does not compile: ",
                     absl::CHexEscape(std::string(reinterpret_cast<const char*>(message),
                                                  static_cast<size_t>(length)))));
  }
  Pattern pattern;
  pattern.regex_ = std::shared_ptr<regex_t>(regex, &onig_free);
  return pattern;
}

size_t Pattern::Growth(size_t content_size) const {
  // Even the empty text may match a regex.
  if (regex_) return 1 + content_size;
  return std::max<size_t>(1, (content_size + literal_.size() - 1) / literal_.size());
}

bool Pattern::Find(std::string_view text, size_t from, MatchRegion& region, size_t* begin,
                   size_t* end) const {
  if (!regex_) {
    *begin = text.find(literal_, from);
    *end = *begin + literal_.size();
    return *begin != std::string_view::npos;
  }
  const OnigUChar* first = Bytes(text.data());
  const OnigUChar* last = first + text.size();
  const int found =
      onig_search(regex_.get(), first, last, first + from, last, region.get(), ONIG_OPTION_NONE);
  if (found < 0) return false;
  *begin = static_cast<size_t>(region.get()->beg[0]);
  *end = static_cast<size_t>(region.get()->end[0]);
  return IsCharStart(text, *begin) && IsCharStart(text, *end);
}

void Pattern::ForEachRange(std::string_view text, MatchRegion& region,
                           absl::FunctionRef<void(size_t, size_t, bool)> visit) const {
  size_t done = 0, begin = 0, end = 0;
  bool matched = false;  // the last match ended at `done`
  for (size_t from = 0; from <= text.size() && Find(text, from, region, &begin, &end);) {
    if (begin < done || end < begin) break;  // \K in a lookbehind can reach back
    if (begin == end && matched && end == done) {
      // An empty match right after a match is not one; look further on.
      from += from < text.size() ? static_cast<size_t>(CharAt(text, from).size) : 1;
      continue;
    }
    if (done != begin) visit(done, begin, false);
    visit(begin, end, true);
    matched = true;
    done = from = end;
  }
  if (done != text.size()) visit(done, text.size(), false);
}

}  // namespace cvxq::tokenization
