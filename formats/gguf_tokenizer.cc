// Writing. Reading is in gguf_tokenizer_read.cc.
#include "formats/gguf_tokenizer.h"

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "formats/gguf_pretokenizer.h"
#include "formats/gguf_tokenizer_keys.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_parts.h"
#include "storage/errors.h"
#include "storage/json.h"

namespace cvxq {
namespace {

using nlohmann::json;
using tokenization::Field;

StatusOr<json> ReadOptional(const Folder& folder, const std::string& name) {
  if (!folder.Has(name)) return json();
  CVXQ_ASSIGN_OR_RETURN(const std::string text, folder.Read(name));
  return ParseJson(text, folder.address() + "/" + name);
}

json FieldOr(const json& object, const char* name) {
  const json* field = Field(object, name);
  return field == nullptr ? json() : *field;
}

class Writer {
 public:
  Writer(const Folder& folder, int64_t vocabulary, GgufMetadata& metadata)
      : folder_(folder),
        where_(folder.address() + "/tokenizer.json"),
        vocabulary_(static_cast<size_t>(vocabulary)),
        metadata_(metadata) {}

  Status Write() {
    if (!folder_.Has("tokenizer.json")) {
      return absl::NotFoundError(absl::StrCat(
          where_, " is missing; GGUF holds the tokenizer, so save it with the model first"));
    }
    CVXQ_ASSIGN_OR_RETURN(root_, ReadOptional(folder_, "tokenizer.json"));
    CVXQ_ASSIGN_OR_RETURN(config_, ReadOptional(folder_, "tokenizer_config.json"));
    CVXQ_ASSIGN_OR_RETURN(parts_, tokenization::ReadParts(root_, where_));
    CVXQ_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(folder_));
    CVXQ_RETURN_IF_ERROR(ChooseModel());
    CVXQ_RETURN_IF_ERROR(ReadMerges());
    AddTokens();
    if (sentencepiece_) AddScores();
    metadata_.Strings("tokenizer.ggml.merges", merges_);
    CVXQ_RETURN_IF_ERROR(AddSpecialIds());
    CVXQ_RETURN_IF_ERROR(AddChatTemplate());
    AddFrame();
    return absl::OkStatus();
  }

 private:
  Status Unknown(const std::string& what) const {
    return absl::UnimplementedError(absl::StrCat(where_, ": ", what,
                                                 ", which llama.cpp has no name for; export the "
                                                 "model as compressed-tensors, gptq or awq"));
  }

  Status ChooseModel() {
    const json model = FieldOr(root_, "model");
    CVXQ_ASSIGN_OR_RETURN(const bool byte_fallback,
                          tokenization::BoolField(model, "byte_fallback", false, where_));
    CVXQ_ASSIGN_OR_RETURN(const bool ignore_merges,
                          tokenization::BoolField(model, "ignore_merges", false, where_));
    const json normalizer = FieldOr(root_, "normalizer"),
               pre_tokenizer = FieldOr(root_, "pre_tokenizer");
    if (byte_fallback && !ignore_merges && AllBytes()) {
      if (const auto found = GgufSentencePiece(normalizer, pre_tokenizer)) {
        sentencepiece_ = true;
        metadata_.String("tokenizer.ggml.model", "llama");
        metadata_.String("tokenizer.ggml.pre", "default");
        metadata_.Bool("tokenizer.ggml.add_space_prefix", found->space_prefix);
        return absl::OkStatus();
      }
    }
    // llama.cpp composes no characters; texts mostly come composed.
    if (!normalizer.is_null() && normalizer != json{{"type", "NFC"}}) {
      return Unknown("its normalizer is neither NFC nor SentencePiece's");
    }
    const std::optional<std::string> pre = GgufPreTokenizer(pre_tokenizer, ignore_merges);
    if (!pre || byte_fallback) {
      return Unknown(
          "it cuts a text into pieces (pre_tokenizer, ignore_merges, byte_fallback) in "
          "a way");
    }
    metadata_.String("tokenizer.ggml.model", "gpt2");
    metadata_.String("tokenizer.ggml.pre", *pre);
    return absl::OkStatus();
  }

  bool AllBytes() const {
    for (int byte = 0; byte < 256; ++byte) {
      if (!parts_.bpe.Find(absl::StrFormat("<0x%02X>", byte))) return false;
    }
    return true;
  }

  // Those whose tokens have rows in the token table.
  Status ReadMerges() {
    const auto in_table = [&](const std::string& token) {
      const auto id = parts_.bpe.Find(token);
      return id && static_cast<size_t>(*id) < vocabulary_;
    };
    for (const json& merge : root_["model"]["merges"]) {
      std::string left, right;
      if (merge.is_array()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else {
        const std::string& text = merge.get_ref<const std::string&>();
        if (text.starts_with("#version")) continue;
        left = text.substr(0, text.find(' '));
        right = text.substr(text.find(' ') + 1);
      }
      if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos) {
        return Unknown("a merge holds a space");
      }
      if (!in_table(left) || !in_table(right) || !in_table(left + right)) continue;
      results_.push_back(*parts_.bpe.Find(left + right));
      merges_.push_back(left + " " + right);
    }
    return absl::OkStatus();
  }

  void AddTokens() {
    tokens_.resize(vocabulary_);
    std::vector<GgufTokenType> types(vocabulary_, GgufTokenType::kUnused);
    std::unordered_set<std::string> known;
    const auto set = [&](int32_t id, const std::string& token, GgufTokenType type) {
      if (static_cast<size_t>(id) >= vocabulary_) return;
      tokens_[id] = token;
      types[id] = type;
      known.insert(token);
    };
    for (const auto& [token, id] : parts_.bpe.vocabulary()) {
      const bool byte = sentencepiece_ && tokenization::ByteOfToken(token).has_value();
      set(id, token, byte ? GgufTokenType::kByte : GgufTokenType::kNormal);
    }
    for (const json& entry : FieldOr(root_, "added_tokens")) {
      const std::string token = entry["content"].get<std::string>();
      const auto id = parts_.added.Find(token);
      if (!id) continue;
      const json* special = Field(entry, "special");
      set(*id, token,
          special != nullptr && *special == true ? GgufTokenType::kControl : GgufTokenType::kUser);
    }
    if (const json* unknown = Field(root_["model"], "unk_token"); unknown && sentencepiece_) {
      const std::string token = unknown->get<std::string>();
      unknown_ = parts_.bpe.Find(token);
      if (unknown_) set(*unknown_, token, GgufTokenType::kUnknown);
    }
    std::vector<int32_t> type_numbers;
    for (size_t id = 0; id < vocabulary_; ++id) {
      if (types[id] == GgufTokenType::kUnused) {
        tokens_[id] = absl::StrCat("[PAD", id, "]");
        while (known.contains(tokens_[id])) tokens_[id] += "_";
      }
      type_numbers.push_back(static_cast<int32_t>(types[id]));
    }
    metadata_.Strings("tokenizer.ggml.tokens", tokens_);
    metadata_.I32s("tokenizer.ggml.token_type", type_numbers);
  }

  // SentencePiece merges the pair whose token has the highest score: those that come earlier among
  // the merges have a higher one; tokens that no merge makes come after all others.
  void AddScores() {
    std::vector<float> scores(vocabulary_, 0);
    std::vector<bool> scored(vocabulary_, false);
    int64_t rank = 0;
    const auto score = [&](size_t id) {
      if (!scored[id]) scores[id] = -static_cast<float>(rank++);
      scored[id] = true;
    };
    for (const int32_t id : results_) score(static_cast<size_t>(id));
    for (const auto& [id, token] : Plain()) score(static_cast<size_t>(id));
    metadata_.F32s("tokenizer.ggml.scores", scores);
  }

  // Tokens that stand for text, by id.
  std::vector<std::pair<int32_t, std::string>> Plain() const {
    std::vector<std::pair<int32_t, std::string>> plain;
    for (const auto& [token, id] : parts_.bpe.vocabulary()) {
      if (static_cast<size_t>(id) >= vocabulary_ || parts_.added.Find(token)) continue;
      if (!tokenization::ByteOfToken(token)) plain.emplace_back(id, token);
    }
    std::sort(plain.begin(), plain.end());
    return plain;
  }

  Status AddSpecialIds() {
    Status status;
    const auto add = [&](const char* name, int32_t id) {
      if (static_cast<size_t>(id) >= vocabulary_) {
        status.Update(absl::DataLossError(absl::StrCat(where_, ": ", name, " ", id,
                                                       " has no row in the token table of ",
                                                       vocabulary_, " rows")));
      }
      metadata_.U32(absl::StrCat("tokenizer.ggml.", name), static_cast<uint32_t>(id));
    };
    const std::vector<int32_t> eos = tokenizer_->eos();
    if (parts_.prefix.size() > 1 || parts_.suffix.size() > 1) {
      return Unknown("its template puts more than one token before or after a text");
    }
    std::optional<int32_t> bos = tokenizer_->bos();
    if (!parts_.prefix.empty()) bos = parts_.prefix.front();
    if (bos) add("bos_token_id", *bos);
    if (!parts_.suffix.empty()) {
      add("eos_token_id", parts_.suffix.front());
    } else if (!eos.empty()) {
      add("eos_token_id", eos.front());
    }
    // Others that end a text: llama.cpp has names for two, which mean the same to it.
    const char* others[] = {"eot_token_id", "eom_token_id"};
    for (size_t i = 1; i < std::min<size_t>(eos.size(), 3); ++i) add(others[i - 1], eos[i]);
    if (unknown_) add("unknown_token_id", *unknown_);
    json pad = FieldOr(config_, "pad_token");
    if (pad.is_object()) pad = FieldOr(pad, "content");
    if (pad.is_string()) {
      const std::string token = pad.get<std::string>();
      const auto added = parts_.added.Find(token);
      if (const auto id = added ? added : parts_.bpe.Find(token)) add("padding_token_id", *id);
    }
    metadata_.Bool("tokenizer.ggml.add_bos_token", !parts_.prefix.empty());
    metadata_.Bool("tokenizer.ggml.add_eos_token", !parts_.suffix.empty());
    return status;
  }

  Status AddChatTemplate() {
    json chat = FieldOr(config_, "chat_template");
    if (chat.is_array()) {
      json found;
      for (const json& entry : chat) {
        if (FieldOr(entry, "name") == "default") found = FieldOr(entry, "template");
      }
      chat = found;
    }
    if (!chat.is_string() && folder_.Has("chat_template.jinja")) {
      CVXQ_ASSIGN_OR_RETURN(const std::string text, folder_.Read("chat_template.jinja"));
      chat = text;
    }
    if (chat.is_string()) metadata_.String("tokenizer.chat_template", chat.get<std::string>());
    return absl::OkStatus();
  }

  void AddFrame() {
    json frame = std::move(root_);
    for (const char* name : {"vocab", "merges"}) frame["model"].erase(name);
    for (const char* name : {"truncation", "padding"}) frame.erase(name);
    metadata_.String(kTokenizerFrameKey, frame.dump());
  }

  const Folder& folder_;
  const std::string where_;
  const size_t vocabulary_;  // rows of the token table
  GgufMetadata& metadata_;
  json root_, config_;
  tokenization::Parts parts_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  bool sentencepiece_ = false;
  std::vector<std::string> merges_, tokens_;
  std::vector<int32_t> results_;  // of merges_
  std::optional<int32_t> unknown_;
};

}  // namespace

Status AddGgufTokenizer(const Folder& folder, int64_t vocabulary, GgufMetadata& metadata) {
  return Writer(folder, vocabulary, metadata).Write();
}

}  // namespace cvxq
