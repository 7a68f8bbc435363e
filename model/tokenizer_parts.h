// What a tokenizer is made of, as read from its files: the hand-over from loading to use.
#ifndef CVXQ_MODEL_TOKENIZER_PARTS_H_
#define CVXQ_MODEL_TOKENIZER_PARTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tokenizer.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_decoder.h"
#include "model/tokenizer_normalizer.h"
#include "model/tokenizer_pretokenizer.h"
#include "nlohmann/json.hpp"

namespace cvxq::tokenization {

struct Parts {
  AddedTokens added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  Bpe bpe;
  std::vector<DecoderStep> decoder;
  bool joins_with_spaces = false;       // no decoder at all
  std::vector<int32_t> prefix, suffix;  // the post-processor's template
};

// Names and ids of the special tokens, from the files beside tokenizer.json.
struct SpecialTokens {
  std::string bos, eos;  // contents; empty: not named
  std::vector<int32_t> bos_ids, eos_ids;
};

// From the JSON of a tokenizer.json. kDataLoss for what is broken, kUnimplemented for what this
// program does not know, each with `where` and the component.
StatusOr<Parts> ReadParts(const nlohmann::json& root, const std::string& where);

// The stages of ReadParts, each from its value in tokenizer.json (null: none).
StatusOr<std::vector<NormalizerStep>> ReadNormalizer(const nlohmann::json& value,
                                                     const std::string& where);
StatusOr<std::vector<PreTokenizerStep>> ReadPreTokenizer(const nlohmann::json& value,
                                                         const std::string& where);
StatusOr<std::vector<DecoderStep>> ReadDecoder(const nlohmann::json& value,
                                               const std::string& where);
StatusOr<Bpe> ReadModel(const nlohmann::json& value, const std::string& where);

// The tokenizer.json that stands for vocab.json and merges.txt of GPT-2's family. `config` is
// tokenizer_config.json (null: none); with `prepends_bos` each text starts with the BOS token.
StatusOr<nlohmann::json> JsonFromVocabAndMerges(nlohmann::json vocabulary,
                                                const std::string& merges,
                                                const nlohmann::json& config, bool prepends_bos,
                                                const std::string& where);

std::unique_ptr<const Tokenizer> MakeTokenizer(Parts parts, const SpecialTokens& special);

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_PARTS_H_
