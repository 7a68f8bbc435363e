// The second stage: cuts a normalised text into the pieces that BPE works on one by one.
#ifndef CVXQ_MODEL_TOKENIZER_PRETOKENIZER_H_
#define CVXQ_MODEL_TOKENIZER_PRETOKENIZER_H_

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "model/tokenizer_pattern.h"

namespace cvxq::tokenization {

// What becomes of the matches (delimiters) between the other ranges.
enum class SplitBehavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;  // matches and the ranges between them swap roles
};
struct DigitsStep {
  bool individual;
};
// Splits by GPT-2's expression if `pattern` is set, then writes bytes in GPT-2's alphabet.
struct ByteLevelStep {
  bool add_prefix_space;
  std::vector<Pattern> pattern;  // none or one
};
enum class PrependScheme { kAlways, kFirst, kNever };
// Replaces spaces by `replacement` (one character), puts one in front, splits before each if
// `split`.
struct MetaspaceStep {
  std::string replacement;
  PrependScheme scheme;
  bool split;
};
using PreTokenizerStep = std::variant<SplitStep, DigitsStep, ByteLevelStep, MetaspaceStep>;

// The scratch of one thread.
struct PreTokenizerScratch {
  MatchRegion region;
  std::vector<std::string> texts;  // one for each step
};

// Calls `sink` with each piece in order; the view is good during the call. `at_start` tells that
// the text is the beginning of what the user gave (Metaspace's scheme kFirst asks).
void PreTokenize(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool at_start,
                 PreTokenizerScratch& scratch, absl::FunctionRef<void(std::string_view)> sink);

// GPT-2's expression for words, as ByteLevel has it built in.
StatusOr<Pattern> Gpt2Pattern();

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_PRETOKENIZER_H_
