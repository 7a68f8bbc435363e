// Reading the tokenizer of a GGUF file: a tokenizer.json is put together and read as always.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "formats/gguf_pretokenizer.h"
#include "formats/gguf_tokenizer.h"
#include "formats/gguf_tokenizer_keys.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_parts.h"
#include "model/tokenizer_unicode.h"
#include "storage/json.h"

namespace cvxq {
namespace {

using nlohmann::json;

// Longer ones are hostile: no merges are looked for.
constexpr size_t kLongestToken = 1000;

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file), where_(file.path() + ": tokenizer.ggml") {}

  StatusOr<std::unique_ptr<const Tokenizer>> Read() {
    CVXQ_RETURN_IF_ERROR(ReadTokens());
    json root;
    if (const GgufValue* own = file_.Find(kTokenizerFrameKey)) {
      CVXQ_ASSIGN_OR_RETURN(root, ParseJson(std::string(own->String().value_or("")),
                                            file_.path() + ": " + kTokenizerFrameKey));
      if (!root.is_object() || !root.contains("model") || !root["model"].is_object()) {
        return Broken(std::string(kTokenizerFrameKey) + " is no tokenizer");
      }
    } else {
      CVXQ_ASSIGN_OR_RETURN(root, Frame());
    }
    json vocabulary = json::object();
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (InVocabulary(id)) vocabulary[std::string(tokens_[id])] = id;
    }
    root["model"]["vocab"] = std::move(vocabulary);
    CVXQ_ASSIGN_OR_RETURN(root["model"]["merges"], Merges());
    CVXQ_ASSIGN_OR_RETURN(tokenization::Parts parts, tokenization::ReadParts(root, where_));
    tokenization::SpecialTokens special;
    if (const auto bos = Id("bos_token_id")) special.bos_ids.push_back(*bos);
    for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
      if (const auto id = Id(name)) special.eos_ids.push_back(*id);
    }
    return tokenization::MakeTokenizer(std::move(parts), special);
  }

 private:
  Status Broken(const std::string& what) const {
    return absl::DataLossError(absl::StrCat("cannot use ", where_, ": ", what));
  }
  Status Unsupported(const std::string& what) const {
    return absl::UnimplementedError(absl::StrCat("cannot use ", where_, ": ", what));
  }
  const GgufValue* Find(const std::string& key) const {
    return file_.Find("tokenizer.ggml." + key);
  }
  std::string String(const std::string& key) const {
    const GgufValue* value = Find(key);
    return std::string(value == nullptr ? "" : value->String().value_or(""));
  }
  std::optional<bool> Bool(const std::string& key) const {
    const GgufValue* value = Find(key);
    return value == nullptr ? std::nullopt : value->Bool();
  }
  // Of a token that is there.
  std::optional<int32_t> Id(const std::string& key) const {
    const GgufValue* value = Find(key);
    const std::optional<int64_t> id = value == nullptr ? std::nullopt : value->Integer();
    if (!id || *id < 0 || *id >= static_cast<int64_t>(tokens_.size())) return std::nullopt;
    return static_cast<int32_t>(*id);
  }

  Status ReadTokens() {
    const GgufValue* tokens = Find("tokens");
    if (tokens == nullptr || !tokens->Strings()) return Broken("tokens are missing");
    tokens_ = *tokens->Strings();
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (!tokenization::IsValidUtf8(tokens_[id])) {
        return Broken(absl::StrCat("token ", id, " is no UTF-8"));
      }
      if (!ids_.emplace(tokens_[id], id).second) {
        return Broken(absl::StrCat("token ", id, " comes twice"));
      }
    }
    types_.assign(tokens_.size(), static_cast<int64_t>(GgufTokenType::kNormal));
    if (const GgufValue* types = Find("token_type")) {
      const auto numbers = types->Integers();
      if (!numbers || numbers->size() != tokens_.size()) {
        return Broken("token_type is not one number for each token");
      }
      types_ = *numbers;
    }
    return absl::OkStatus();
  }

  bool Is(size_t id, GgufTokenType type) const { return types_[id] == static_cast<int64_t>(type); }
  // Rows of the token table that belong to no token are called [PAD7].
  bool InVocabulary(size_t id) const {
    return !tokens_[id].empty() &&
           !(Is(id, GgufTokenType::kUnused) && tokens_[id].starts_with("[PAD"));
  }

  // All but vocabulary and merges, as the keys of llama.cpp imply it.
  StatusOr<json> Frame() const {
    const std::string model = String("model"), pre = String("pre");
    json root = {{"model", {{"type", "BPE"}}}};
    if (model == "llama") {
      const bool prefix = Bool("add_space_prefix").value_or(true);
      root["normalizer"] = SentencePieceNormalizer(prefix);
      root["decoder"] = SentencePieceDecoder(prefix);
      root["model"]["byte_fallback"] = root["model"]["fuse_unk"] = true;
      if (const auto id = Id("unknown_token_id")) {
        root["model"]["unk_token"] = std::string(tokens_[*id]);
      }
    } else if (model == "gpt2") {
      const auto parts = PreTokenizerOfGguf(pre);
      if (!parts) return Unsupported(absl::StrCat("pre \"", pre, "\" is not known here"));
      root["normalizer"] = parts->normalizer;
      root["pre_tokenizer"] = parts->pre_tokenizer;
      root["decoder"] = {{"type", "ByteLevel"}};
      root["model"]["ignore_merges"] = parts->ignore_merges;
    } else {
      return Unsupported(absl::StrCat("model \"", model, "\" is not known here"));
    }
    json added = json::array();
    for (size_t id = 0; id < tokens_.size(); ++id) {
      const bool user = Is(id, GgufTokenType::kUser);
      if (!user && !Is(id, GgufTokenType::kControl) && !Is(id, GgufTokenType::kUnknown)) continue;
      if (tokens_[id].empty()) continue;
      added.push_back({{"id", id},
                       {"content", std::string(tokens_[id])},
                       {"special", !user},
                       {"normalized", false}});
    }
    root["added_tokens"] = std::move(added);
    root["post_processor"] = Template(model == "llama" || pre == "llama-bpe" || pre == "tekken");
    return root;
  }

  json Template(bool bos_by_default) const {
    json single = json::array(), specials = json::object();
    const auto add = [&](const char* switch_name, bool missing, const char* id_name) {
      const auto id = Id(id_name);
      if (!id || !Bool(switch_name).value_or(missing)) return;
      const std::string token(tokens_[*id]);
      single.push_back({{"SpecialToken", {{"id", token}}}});
      specials[token]["ids"] = json::array({static_cast<size_t>(*id)});
    };
    add("add_bos_token", bos_by_default, "bos_token_id");
    single.push_back({{"Sequence", {{"id", "A"}}}});
    add("add_eos_token", false, "eos_token_id");
    return {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", specials}};
  }

  StatusOr<json> Merges() const {
    const GgufValue* value = Find("merges");
    if (value == nullptr && String("model") == "llama") return MergesOfScores();
    const auto merges = value == nullptr ? std::nullopt : value->Strings();
    if (!merges) return Broken("merges are missing");
    json pairs = json::array();
    for (const std::string_view merge : *merges) {
      const size_t space = merge.find(' ', 1);
      if (space == std::string_view::npos || !tokenization::IsValidUtf8(merge)) {
        return Broken(absl::StrCat("merge ", pairs.size(), " is no pair of tokens"));
      }
      pairs.push_back({std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))});
    }
    return pairs;
  }

  // SentencePiece merges any two tokens that make a third one, that of the highest score first.
  StatusOr<json> MergesOfScores() const {
    const GgufValue* value = Find("scores");
    const auto scores = value == nullptr ? std::nullopt : value->Floats();
    if (!scores || scores->size() != tokens_.size() ||
        std::any_of(scores->begin(), scores->end(), [](double s) { return std::isnan(s); })) {
      return Broken("scores are missing, or are not one number for each token");
    }
    std::vector<size_t> order;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (Is(id, GgufTokenType::kNormal) || Is(id, GgufTokenType::kUser)) order.push_back(id);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return (*scores)[a] > (*scores)[b]; });
    json pairs = json::array();
    for (const size_t id : order) {
      const std::string_view token = tokens_[id];
      for (size_t cut = 1; token.size() < kLongestToken && cut < token.size(); ++cut) {
        const auto left = ids_.find(token.substr(0, cut)), right = ids_.find(token.substr(cut));
        if (left == ids_.end() || right == ids_.end()) continue;
        pairs.push_back({std::string(left->first), std::string(right->first)});
      }
    }
    return pairs;
  }

  const GgufFile& file_;
  const std::string where_;
  std::vector<std::string_view> tokens_;
  std::unordered_map<std::string_view, size_t> ids_;
  std::vector<int64_t> types_;
};

}  // namespace

StatusOr<std::unique_ptr<const Tokenizer>> TokenizerFromGguf(const GgufFile& file) {
  return Reader(file).Read();
}

}  // namespace cvxq
