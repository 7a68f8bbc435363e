// A whole tokenizer from the JSON of its file: added tokens, stages, post-processor.
#include "model/tokenizer_parts.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "model/tokenizer_json.h"

namespace cvxq::tokenization {
namespace {

using nlohmann::json;

// An id is the vocabulary's where the token is in it, else the next free one after it: the file's
// own "id" only repeats this.
Status ReadAddedTokens(const json& root, const std::string& file, Parts* parts) {
  const std::string where = file + ": added_tokens";
  if (Field(root, "added_tokens") == nullptr) return absl::OkStatus();
  CVXQ_ASSIGN_OR_RETURN(const json* list, ArrayField(root, "added_tokens", where));
  MatchRegion region;
  auto next = static_cast<int32_t>(parts->bpe.vocabulary().size());
  for (const json& entry : *list) {
    AddedToken token;
    CVXQ_ASSIGN_OR_RETURN(token.content, StringField(entry, "content", where));
    CVXQ_ASSIGN_OR_RETURN(token.single_word, BoolField(entry, "single_word", false, where));
    CVXQ_ASSIGN_OR_RETURN(token.lstrip, BoolField(entry, "lstrip", false, where));
    CVXQ_ASSIGN_OR_RETURN(token.rstrip, BoolField(entry, "rstrip", false, where));
    CVXQ_ASSIGN_OR_RETURN(token.special, BoolField(entry, "special", false, where));
    CVXQ_ASSIGN_OR_RETURN(token.normalized, BoolField(entry, "normalized", !token.special, where));
    if (const json* id = Field(entry, "id"); id != nullptr) {
      CVXQ_RETURN_IF_ERROR(IdOf(*id, where).status());
    }
    if (token.content.empty()) continue;
    auto id = parts->added.Find(token.content);
    if (!id) id = parts->bpe.Find(token.content);
    if (!id) id = next++;
    std::string text =
        token.normalized ? Normalize(parts->normalizer, token.content, region) : token.content;
    parts->added.Add(*id, token, std::move(text));
  }
  parts->added.Finish();
  return absl::OkStatus();
}

// ["content", id]
StatusOr<int32_t> IdOfPair(const json& component, const char* name, const std::string& where) {
  const json* pair = Field(component, name);
  if (pair == nullptr || !pair->is_array() || pair->size() != 2) {
    return Broken(where, absl::StrCat(name, " is not a token and its id"));
  }
  return IdOf((*pair)[1], where);
}

// {"single": [{"SpecialToken": {"id": name}}, {"Sequence": {"id": "A"}}, ...],
//  "special_tokens": {name: {"ids": [...]}}}
Status ReadTemplate(const json& component, const std::string& where, std::vector<int32_t>* prefix,
                    std::vector<int32_t>* suffix) {
  CVXQ_ASSIGN_OR_RETURN(const json* single, ArrayField(component, "single", where));
  const json* specials = Field(component, "special_tokens");
  bool past_text = false;
  for (const json& piece : *single) {
    if (const json* sequence = Field(piece, "Sequence")) {
      CVXQ_ASSIGN_OR_RETURN(const std::string id, StringField(*sequence, "id", where));
      if (past_text || id != "A") return Unsupported(where, "a template with more than one text");
      past_text = true;
      continue;
    }
    const json* special = Field(piece, "SpecialToken");
    if (special == nullptr) return Broken(where, "single has an entry of no known kind");
    CVXQ_ASSIGN_OR_RETURN(const std::string name, StringField(*special, "id", where));
    const json* entry = specials == nullptr ? nullptr : Field(*specials, name.c_str());
    if (entry == nullptr) return Broken(where, "single names a token that special_tokens lacks");
    CVXQ_ASSIGN_OR_RETURN(const json* ids, ArrayField(*entry, "ids", where));
    for (const json& value : *ids) {
      CVXQ_ASSIGN_OR_RETURN(const int32_t id, IdOf(value, where));
      (past_text ? suffix : prefix)->push_back(id);
    }
  }
  return past_text ? absl::OkStatus() : Unsupported(where, "a template without the text");
}

Status ReadPostProcessor(const json& value, const std::string& file, Parts* parts) {
  const std::string where = file + ": post_processor";
  return ForEachComponent(
      value, "processors", where, [&](const json& component, const std::string& type) -> Status {
        // Each processor wraps what those before it made. ByteLevel only moves offsets.
        std::vector<int32_t> prefix, suffix;
        if (type == "TemplateProcessing") {
          CVXQ_RETURN_IF_ERROR(ReadTemplate(component, where, &prefix, &suffix));
        } else if (type == "RobertaProcessing" || type == "BertProcessing") {
          CVXQ_ASSIGN_OR_RETURN(const int32_t first, IdOfPair(component, "cls", where));
          CVXQ_ASSIGN_OR_RETURN(const int32_t last, IdOfPair(component, "sep", where));
          prefix.push_back(first);
          suffix.push_back(last);
        } else if (type != "ByteLevel") {
          return Unsupported(where, "type " + Quote(type));
        }
        parts->prefix.insert(parts->prefix.begin(), prefix.begin(), prefix.end());
        parts->suffix.insert(parts->suffix.end(), suffix.begin(), suffix.end());
        return absl::OkStatus();
      });
}

}  // namespace

StatusOr<Parts> ReadParts(const json& root, const std::string& where) {
  if (!root.is_object()) return Broken(where, "it is not a JSON object");
  const auto member = [&](const char* name) {
    const json* field = Field(root, name);
    return field == nullptr ? json() : *field;
  };
  const json* model = Field(root, "model");
  Parts parts;
  CVXQ_ASSIGN_OR_RETURN(parts.bpe, ReadModel(model == nullptr ? json() : *model, where));
  CVXQ_ASSIGN_OR_RETURN(parts.normalizer, ReadNormalizer(member("normalizer"), where));
  CVXQ_ASSIGN_OR_RETURN(parts.pre_tokenizer, ReadPreTokenizer(member("pre_tokenizer"), where));
  CVXQ_ASSIGN_OR_RETURN(parts.decoder, ReadDecoder(member("decoder"), where));
  parts.joins_with_spaces = Field(root, "decoder") == nullptr;
  CVXQ_RETURN_IF_ERROR(ReadPostProcessor(member("post_processor"), where, &parts));
  CVXQ_RETURN_IF_ERROR(ReadAddedTokens(root, where, &parts));
  return parts;
}

StatusOr<json> JsonFromVocabAndMerges(json vocabulary, const std::string& merges,
                                      const json& config, bool prepends_bos,
                                      const std::string& where) {
  json root = json::object();
  std::vector<std::string> lines = absl::StrSplit(merges, '\n', absl::SkipEmpty());
  for (std::string& line : lines) {
    if (line.ends_with('\r')) line.pop_back();
  }
  root["model"] = {{"type", "BPE"}, {"vocab", std::move(vocabulary)}, {"merges", std::move(lines)}};
  root["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  root["decoder"] = {{"type", "ByteLevel"}};
  const json& vocab = root["model"]["vocab"];
  json added = json::array();
  std::string bos;
  for (const char* name : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    const json* token = Field(config, name);
    if (token == nullptr) continue;
    const json* content = token->is_object() ? Field(*token, "content") : token;
    if (content == nullptr || !content->is_string()) continue;
    added.push_back({{"content", *content}, {"special", true}});
    if (std::string_view(name) == "bos_token") bos = content->get<std::string>();
  }
  root["added_tokens"] = std::move(added);
  if (prepends_bos) {
    const json* id = Field(vocab, bos.c_str());
    if (id == nullptr) {
      return Broken(where, "the vocabulary lacks the BOS token that each text shall start with");
    }
    const json before = {{"SpecialToken", {{"id", bos}}}};
    const json text = {{"Sequence", {{"id", "A"}}}};
    json specials = json::object();
    specials[bos]["ids"] = json::array({*id});
    root["post_processor"] = {{"type", "TemplateProcessing"},
                              {"single", json::array({before, text})},
                              {"special_tokens", std::move(specials)}};
  }
  return root;
}

}  // namespace cvxq::tokenization
