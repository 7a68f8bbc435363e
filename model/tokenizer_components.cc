// The stages of a tokenizer from their JSON: normalizer, pre_tokenizer, decoder, model.
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_parts.h"
#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

using nlohmann::json;

// {"String": s} or {"Regex": s}.
StatusOr<Pattern> ReadPattern(const json& component, const std::string& where) {
  const json* pattern = Field(component, "pattern");
  if (pattern == nullptr) return Broken(where, "pattern is missing");
  const bool is_regex = Field(*pattern, "Regex") != nullptr;
  CVXQ_ASSIGN_OR_RETURN(const std::string text,
                        StringField(*pattern, is_regex ? "Regex" : "String", where));
  auto result = is_regex ? Pattern::Regex(text) : Pattern::Literal(text);
  if (!result.ok()) return Broken(where, std::string(result.status().message()));
  return result;
}

StatusOr<ReplaceStep> ReadReplace(const json& component, const std::string& where) {
  CVXQ_ASSIGN_OR_RETURN(Pattern pattern, ReadPattern(component, where));
  CVXQ_ASSIGN_OR_RETURN(std::string content, StringField(component, "content", where));
  return ReplaceStep{std::move(pattern), std::move(content)};
}

// A string of exactly one character.
StatusOr<std::string> CharField(const json& component, const char* name, const std::string& where) {
  CVXQ_ASSIGN_OR_RETURN(std::string text, StringField(component, name, where));
  if (text.empty() || static_cast<size_t>(FirstPart(text).size) != text.size()) {
    return Broken(where, absl::StrCat(name, " is not one character"));
  }
  return text;
}

StatusOr<size_t> CountField(const json& component, const char* name, const std::string& where) {
  const json* field = Field(component, name);
  if (field == nullptr || !field->is_number_unsigned()) {
    return Broken(where, absl::StrCat(name, " is not a count"));
  }
  return field->get<size_t>();
}

StatusOr<PrependScheme> ReadPrependScheme(const json& component, const std::string& where) {
  // Before there was prepend_scheme, add_prefix_space said the same in fewer words.
  CVXQ_ASSIGN_OR_RETURN(const bool prefix,
                        BoolField(component, "add_prefix_space", /*fallback=*/true, where));
  if (!prefix) return PrependScheme::kNever;
  if (Field(component, "prepend_scheme") == nullptr) return PrependScheme::kAlways;
  CVXQ_ASSIGN_OR_RETURN(const std::string name, StringField(component, "prepend_scheme", where));
  if (name == "always") return PrependScheme::kAlways;
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never") return PrependScheme::kNever;
  return Unsupported(where, "prepend_scheme " + Quote(name));
}

StatusOr<SplitBehavior> ReadBehavior(const json& component, const std::string& where) {
  CVXQ_ASSIGN_OR_RETURN(const std::string name, StringField(component, "behavior", where));
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  return Unsupported(where, "behavior " + Quote(name));
}

StatusOr<PreTokenizerStep> ReadPreTokenizerStep(const json& component, const std::string& type,
                                                const std::string& where) {
  if (type == "ByteLevel") {
    ByteLevelStep step;
    CVXQ_ASSIGN_OR_RETURN(step.add_prefix_space,
                          BoolField(component, "add_prefix_space", true, where));
    CVXQ_ASSIGN_OR_RETURN(const bool use_regex, BoolField(component, "use_regex", true, where));
    if (use_regex) {
      CVXQ_ASSIGN_OR_RETURN(Pattern pattern, Gpt2Pattern());
      step.pattern.push_back(std::move(pattern));
    }
    return step;
  }
  if (type == "Split") {
    CVXQ_ASSIGN_OR_RETURN(Pattern pattern, ReadPattern(component, where));
    CVXQ_ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(component, where));
    CVXQ_ASSIGN_OR_RETURN(const bool invert, BoolField(component, "invert", false, where));
    return SplitStep{std::move(pattern), behavior, invert};
  }
  if (type == "Digits") {
    CVXQ_ASSIGN_OR_RETURN(const bool individual,
                          BoolField(component, "individual_digits", false, where));
    return DigitsStep{individual};
  }
  if (type == "Metaspace") {
    CVXQ_ASSIGN_OR_RETURN(std::string replacement, CharField(component, "replacement", where));
    CVXQ_ASSIGN_OR_RETURN(const PrependScheme scheme, ReadPrependScheme(component, where));
    CVXQ_ASSIGN_OR_RETURN(const bool split, BoolField(component, "split", true, where));
    return MetaspaceStep{std::move(replacement), scheme, split};
  }
  return Unsupported(where, "type " + Quote(type));
}

StatusOr<DecoderStep> ReadDecoderStep(const json& component, const std::string& type,
                                      const std::string& where) {
  if (type == "ByteLevel") return ByteLevelDecode{};
  if (type == "ByteFallback") return ByteFallbackDecode{};
  if (type == "Fuse") return FuseDecode{};
  if (type == "Replace") return ReadReplace(component, where);
  if (type == "Strip") {
    StripDecode step;
    CVXQ_ASSIGN_OR_RETURN(step.content, CharField(component, "content", where));
    CVXQ_ASSIGN_OR_RETURN(step.start, CountField(component, "start", where));
    CVXQ_ASSIGN_OR_RETURN(step.stop, CountField(component, "stop", where));
    return step;
  }
  if (type == "Metaspace") {
    CVXQ_ASSIGN_OR_RETURN(std::string replacement, CharField(component, "replacement", where));
    CVXQ_ASSIGN_OR_RETURN(const PrependScheme scheme, ReadPrependScheme(component, where));
    return MetaspaceDecode{std::move(replacement), scheme != PrependScheme::kNever};
  }
  return Unsupported(where, "type " + Quote(type));
}

StatusOr<NormalizerStep> ReadNormalizerStep(const json& component, const std::string& type,
                                            const std::string& where) {
  if (type == "NFC") return NfcStep{};
  if (type == "Replace") return ReadReplace(component, where);
  if (type == "Prepend") {
    CVXQ_ASSIGN_OR_RETURN(std::string text, StringField(component, "prepend", where));
    constexpr size_t kLongestPrefix = 1000;
    if (text.size() > kLongestPrefix) return Broken(where, "prepend is too long a string");
    return PrependStep{std::move(text)};
  }
  return Unsupported(where, "type " + Quote(type));
}

// How many times longer than its input a step's output can be (added prefixes aside).
size_t Growth(const ReplaceStep& step) { return step.pattern.Growth(step.content.size()); }
size_t Growth(const ByteLevelStep&) { return 2; }
size_t Growth(const MetaspaceStep& step) { return step.replacement.size(); }
template <typename Step>
size_t Growth(const Step&) {
  return 1;
}

// All components of one stage through `read`. Stages that could blow up a text are refused: a few
// dozen steps that each double it would fill any memory.
template <typename Step>
StatusOr<std::vector<Step>> ReadSteps(const json& value, const char* list_name,
                                      const std::string& where,
                                      StatusOr<Step> (*read)(const json&, const std::string&,
                                                             const std::string&)) {
  constexpr size_t kMostGrowth = 1000, kMostSteps = 32;
  std::vector<Step> steps;
  size_t growth = 1;
  CVXQ_RETURN_IF_ERROR(ForEachComponent(
      value, list_name, where, [&](const json& component, const std::string& type) -> Status {
        CVXQ_ASSIGN_OR_RETURN(Step step, read(component, type, where));
        growth *= std::visit([](const auto& s) { return Growth(s); }, step);
        steps.push_back(std::move(step));
        if (growth > kMostGrowth) return Broken(where, "it makes a text too many times longer");
        if (steps.size() > kMostSteps) return Broken(where, "it has too many steps");
        return absl::OkStatus();
      }));
  return steps;
}

Status ReadVocabulary(const json& model, const std::string& where, Vocabulary* vocabulary) {
  const json* field = Field(model, "vocab");
  if (field == nullptr || !field->is_object()) return Broken(where, "vocab is not an object");
  std::set<int32_t> ids;
  for (const auto& [token, value] : field->items()) {
    CVXQ_ASSIGN_OR_RETURN(const int32_t id, IdOf(value, where + ": vocab"));
    if (!ids.insert(id).second) {
      return Broken(where, absl::StrCat("vocab gives the id ", id, " twice"));
    }
    vocabulary->emplace(token, id);
  }
  return absl::OkStatus();
}

// Merges as "a b" or as ["a", "b"].
Status ReadMerges(const json& model, const std::string& where, BpeOptions* options) {
  CVXQ_ASSIGN_OR_RETURN(const json* merges, ArrayField(model, "merges", where));
  options->merges.reserve(merges->size());
  for (const json& merge : *merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      options->merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
    const size_t space = text.find(' ');
    if (text.rfind("#version", 0) == 0) continue;
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return Broken(where,
                    absl::StrCat("merge ", options->merges.size(), " is not a pair of tokens"));
    }
    options->merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return absl::OkStatus();
}

// An option that must be absent or empty.
Status ExpectUnset(const json& model, const char* name, const std::string& where) {
  const json* field = Field(model, name);
  const bool unset = field == nullptr ||
                     (field->is_string() && field->get<std::string>().empty()) ||
                     (field->is_number() && field->get<double>() == 0);
  return unset ? absl::OkStatus() : Unsupported(where, name);
}

}  // namespace

StatusOr<std::vector<NormalizerStep>> ReadNormalizer(const json& value, const std::string& where) {
  return ReadSteps(value, "normalizers", where + ": normalizer", &ReadNormalizerStep);
}

StatusOr<std::vector<PreTokenizerStep>> ReadPreTokenizer(const json& value,
                                                         const std::string& where) {
  return ReadSteps(value, "pretokenizers", where + ": pre_tokenizer", &ReadPreTokenizerStep);
}

StatusOr<std::vector<DecoderStep>> ReadDecoder(const json& value, const std::string& where) {
  return ReadSteps(value, "decoders", where + ": decoder", &ReadDecoderStep);
}

StatusOr<Bpe> ReadModel(const json& value, const std::string& file) {
  const std::string where = file + ": model";
  if (!value.is_object()) return Broken(where, "it is missing or not an object");
  // The oldest files have no type; only BPE has merges.
  if (Field(value, "type") != nullptr || Field(value, "merges") == nullptr) {
    CVXQ_ASSIGN_OR_RETURN(const std::string type, StringField(value, "type", where));
    if (type != "BPE") return Unsupported(where, "type " + Quote(type));
  }
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    CVXQ_RETURN_IF_ERROR(ExpectUnset(value, name, where));
  }
  BpeOptions options;
  CVXQ_RETURN_IF_ERROR(ReadVocabulary(value, where, &options.vocabulary));
  CVXQ_RETURN_IF_ERROR(ReadMerges(value, where, &options));
  if (Field(value, "unk_token") != nullptr) {
    CVXQ_ASSIGN_OR_RETURN(options.unknown, StringField(value, "unk_token", where));
  }
  CVXQ_ASSIGN_OR_RETURN(options.fuse_unknown, BoolField(value, "fuse_unk", false, where));
  CVXQ_ASSIGN_OR_RETURN(options.byte_fallback, BoolField(value, "byte_fallback", false, where));
  CVXQ_ASSIGN_OR_RETURN(options.ignore_merges, BoolField(value, "ignore_merges", false, where));
  auto bpe = Bpe::Create(std::move(options));
  if (!bpe.ok()) return Broken(where, std::string(bpe.status().message()));
  return bpe;
}

}  // namespace cvxq::tokenization
