// The first stage of a tokenizer: text to text.
#ifndef CVXQ_MODEL_TOKENIZER_NORMALIZER_H_
#define CVXQ_MODEL_TOKENIZER_NORMALIZER_H_

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/tokenizer_pattern.h"

namespace cvxq::tokenization {

struct NfcStep {};
struct PrependStep {
  std::string text;  // put before a text that is not empty
};
// Every match becomes `content`; also a step of the decoder.
struct ReplaceStep {
  Pattern pattern;
  std::string content;

  std::string Apply(std::string_view text, MatchRegion& region) const;
};
using NormalizerStep = std::variant<NfcStep, PrependStep, ReplaceStep>;

// Applies the steps in order to valid UTF-8.
std::string Normalize(const std::vector<NormalizerStep>& steps, std::string_view text,
                      MatchRegion& region);

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_NORMALIZER_H_
