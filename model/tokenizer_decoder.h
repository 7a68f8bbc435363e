// The last stage: the texts of tokens to the text a person reads.
#ifndef CVXQ_MODEL_TOKENIZER_DECODER_H_
#define CVXQ_MODEL_TOKENIZER_DECODER_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/tokenizer_normalizer.h"

namespace cvxq::tokenization {

struct ByteLevelDecode {};     // GPT-2's alphabet back to bytes, all tokens together
struct ByteFallbackDecode {};  // runs of <0xHH> back to characters, or one U+FFFD for each byte
struct FuseDecode {};          // all tokens become one
struct StripDecode {           // takes up to so many `content` off both ends of every token
  std::string content;         // one character
  size_t start, stop;
};
struct MetaspaceDecode {  // `replacement` to a space; nothing in the first token if `prepended`
  std::string replacement;
  bool prepended;
};
using DecoderStep = std::variant<ByteLevelDecode, ByteFallbackDecode, FuseDecode, StripDecode,
                                 MetaspaceDecode, ReplaceStep>;

// Applies the steps in order and joins. The result is valid UTF-8 if the tokens are.
std::string DecodeTokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens);

// The byte of a token <0xHH>.
std::optional<char> ByteOfToken(std::string_view token);

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_DECODER_H_
