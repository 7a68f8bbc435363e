// What writing and reading the tokenizer of a GGUF file share.
#ifndef CVXQ_FORMATS_GGUF_TOKENIZER_KEYS_H_
#define CVXQ_FORMATS_GGUF_TOKENIZER_KEYS_H_

#include <cstdint>

namespace cvxq {

// tokenizer.json without its vocabulary and merges: our own key, which others pass over.
inline constexpr char kTokenizerFrameKey[] = "cvxq.tokenizer";

// tokenizer.ggml.token_type
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,  // special: not part of a text
  kUser = 4,     // found in a text as it stands
  kUnused = 5,
  kByte = 6
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_TOKENIZER_KEYS_H_
