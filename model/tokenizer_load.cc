// A tokenizer from the files of a checkpoint folder.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/tokenizer.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_parts.h"
#include "storage/json.h"

namespace cvxq {
namespace {

using nlohmann::json;
using tokenization::Field;

// null if there is no such file.
StatusOr<json> ReadOptionalJson(const Folder& folder, const std::string& name) {
  const auto text = folder.Read(name);
  if (absl::IsNotFound(text.status())) return json();
  CVXQ_RETURN_IF_ERROR(text.status());
  return ParseJson(*text, folder.address() + "/" + name);
}

// tokenizer_config.json names a token as a string or as {"content": string}.
std::string TokenName(const json& config, const char* name) {
  const json* token = Field(config, name);
  if (token != nullptr && token->is_object()) token = Field(*token, "content");
  return token != nullptr && token->is_string() ? token->get<std::string>() : std::string();
}

// An id or a list of ids; whatever else stands there is passed over, as is null.
void AppendIds(const json& config, const char* name, std::vector<int32_t>* ids) {
  const json* value = Field(config, name);
  if (value == nullptr) return;
  for (const json& entry : value->is_array() ? *value : json::array({*value})) {
    if (const auto id = tokenization::IdOf(entry, name); id.ok()) ids->push_back(*id);
  }
}

// The JSON of vocab.json + merges.txt; kNotFound if they are not there either.
StatusOr<json> ReadVocabAndMerges(const Folder& folder, const json& tokenizer_config,
                                  const json& config) {
  const std::string vocab_path = folder.address() + "/vocab.json";
  CVXQ_ASSIGN_OR_RETURN(json vocab, ReadOptionalJson(folder, "vocab.json"));
  if (vocab.is_null()) {
    return absl::NotFoundError(
        absl::StrCat(folder.address(),
                     ": neither tokenizer.json nor vocab.json with merges.txt is there; "
                     "save the model's tokenizer into the folder"));
  }
  CVXQ_ASSIGN_OR_RETURN(const std::string merges, folder.Read("merges.txt"));

  json names = tokenizer_config.is_object() ? tokenizer_config : json::object();
  const json* type = Field(config, "model_type");
  const bool is_opt = type != nullptr && *type == "opt";
  if (is_opt && TokenName(names, "bos_token").empty()) names["bos_token"] = "</s>";
  CVXQ_ASSIGN_OR_RETURN(const bool prepends_bos,
                        tokenization::BoolField(names, "add_bos_token", /*fallback=*/is_opt,
                                                folder.address() + "/tokenizer_config.json"));
  return tokenization::JsonFromVocabAndMerges(std::move(vocab), merges, names, prepends_bos,
                                              vocab_path);
}

}  // namespace

StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Parse(std::string_view text,
                                                            std::string where) {
  CVXQ_ASSIGN_OR_RETURN(const json root, ParseJson(text, where));
  CVXQ_ASSIGN_OR_RETURN(auto parts, tokenization::ReadParts(root, where));
  return tokenization::MakeTokenizer(std::move(parts), {});
}

StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& address) {
  CVXQ_ASSIGN_OR_RETURN(const std::shared_ptr<const Folder> folder, Folder::Open(address));
  return Load(*folder);
}

StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const Folder& folder) {
  CVXQ_ASSIGN_OR_RETURN(const json names, ReadOptionalJson(folder, "tokenizer_config.json"));
  CVXQ_ASSIGN_OR_RETURN(const json generation, ReadOptionalJson(folder, "generation_config.json"));
  CVXQ_ASSIGN_OR_RETURN(const json config, ReadOptionalJson(folder, "config.json"));
  std::string where = folder.address() + "/tokenizer.json";
  CVXQ_ASSIGN_OR_RETURN(json root, ReadOptionalJson(folder, "tokenizer.json"));
  if (root.is_null()) {
    where = folder.address() + "/vocab.json";
    CVXQ_ASSIGN_OR_RETURN(root, ReadVocabAndMerges(folder, names, config));
  }
  CVXQ_ASSIGN_OR_RETURN(auto parts, tokenization::ReadParts(root, where));

  tokenization::SpecialTokens special;
  special.bos = TokenName(names, "bos_token");
  special.eos = TokenName(names, "eos_token");
  for (const json* source : {&generation, &config}) {
    AppendIds(*source, "bos_token_id", &special.bos_ids);
    AppendIds(*source, "eos_token_id", &special.eos_ids);
  }
  return tokenization::MakeTokenizer(std::move(parts), special);
}

}  // namespace cvxq
