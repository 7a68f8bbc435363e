// How llama.cpp cuts a text before merging: it knows each way by a name, tokenizer.ggml.pre.
#ifndef CVXQ_FORMATS_GGUF_PRETOKENIZER_H_
#define CVXQ_FORMATS_GGUF_PRETOKENIZER_H_

#include <optional>
#include <string>
#include <string_view>

#include "nlohmann/json.hpp"

namespace cvxq {

// The name for byte-level BPE with these components of a tokenizer.json, whose merging passes
// whole tokens by or not; nullopt where llama.cpp cuts in no such way.
std::optional<std::string> GgufPreTokenizer(const nlohmann::json& pre_tokenizer,
                                            bool ignore_merges);

// The components behind a name; nullopt for an unknown one.
struct PreTokenizerParts {
  nlohmann::json normalizer, pre_tokenizer;
  bool ignore_merges = false;
};
std::optional<PreTokenizerParts> PreTokenizerOfGguf(std::string_view name);

// What stands in a tokenizer.json for vocabularies of SentencePiece (tokenizer.ggml.model llama):
// a space becomes U+2581, perhaps with one before the text.
struct SentencePieceParts {
  bool space_prefix = false;
};
std::optional<SentencePieceParts> GgufSentencePiece(const nlohmann::json& normalizer,
                                                    const nlohmann::json& pre_tokenizer);
nlohmann::json SentencePieceNormalizer(bool space_prefix);
nlohmann::json SentencePieceDecoder(bool space_prefix);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_PRETOKENIZER_H_
