// The normaliser's steps.
#include "model/tokenizer_normalizer.h"

#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

std::string Apply(const NfcStep&, std::string_view text, MatchRegion&) { return ToNfc(text); }

std::string Apply(const PrependStep& step, std::string_view text, MatchRegion&) {
  return text.empty() ? std::string() : step.text + std::string(text);
}

std::string Apply(const ReplaceStep& step, std::string_view text, MatchRegion& region) {
  return step.Apply(text, region);
}

}  // namespace

std::string ReplaceStep::Apply(std::string_view text, MatchRegion& region) const {
  std::string out;
  out.reserve(text.size());
  pattern.ForEachRange(text, region, [&](size_t begin, size_t end, bool is_match) {
    out.append(is_match ? std::string_view(content) : text.substr(begin, end - begin));
  });
  return out;
}

std::string Normalize(const std::vector<NormalizerStep>& steps, std::string_view text,
                      MatchRegion& region) {
  std::string result(text);
  for (const NormalizerStep& step : steps) {
    result = std::visit([&](const auto& s) { return Apply(s, result, region); }, step);
  }
  return result;
}

}  // namespace cvxq::tokenization
