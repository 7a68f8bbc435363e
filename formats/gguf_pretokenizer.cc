#include "formats/gguf_pretokenizer.h"

#include <vector>

namespace cvxq {
namespace {

using nlohmann::json;

constexpr std::string_view kNoSplit = "";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Row {
  std::string_view name;
  std::string_view split;  // by this expression; none: by GPT-2's, within ByteLevel
  bool digits;             // one by one, first
  bool ignore_merges;      // a piece that is a token is that token
  bool nfc;                // normalised by the models that go by this name (not by llama.cpp)
};
// The first that fits is written.
constexpr Row kRows[] = {
    {"gpt-2", kNoSplit, false, false, false},   {"command-r", kNoSplit, true, false, true},
    {"llama-bpe", kLlama3, false, true, false}, {"smaug-bpe", kLlama3, false, false, false},
    {"qwen2", kQwen2, false, false, true},      {"tekken", kTekken, false, true, false},
    {"gpt-4o", kGpt4o, false, false, false},    {"smollm", kNoSplit, true, false, false},
    {"llama3", kLlama3, false, true, false},    {"llama-v3", kLlama3, false, true, false},
    {"dbrx", kLlama3, false, false, false},     {"deepseek-r1-qwen", kQwen2, false, false, true},
};

json Sequence(const char* list, json components) {
  return {{"type", "Sequence"}, {list, std::move(components)}};
}

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json PreTokenizer(const Row& row) {
  json steps = json::array();
  if (row.digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (!row.split.empty()) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", std::string(row.split)}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back(ByteLevel(row.split.empty()));
  return Sequence("pretokenizers", std::move(steps));
}

// The components in order, without nested sequences and fields that change no ids.
void Flatten(const json& component, const char* list, std::vector<json>& out) {
  if (component.is_null()) return;
  if (component.is_object() && component.value("type", "") == "Sequence" &&
      component.contains(list) && component[list].is_array()) {
    for (const json& part : component[list]) Flatten(part, list, out);
    return;
  }
  json plain = component;
  if (plain.is_object() && plain.value("type", "") == "ByteLevel") {
    plain.erase("trim_offsets");
    if (!plain.contains("use_regex")) plain["use_regex"] = true;
    if (!plain.contains("add_prefix_space")) plain["add_prefix_space"] = true;
  }
  if (plain.is_object() && plain.value("type", "") == "Split" && !plain.contains("invert")) {
    plain["invert"] = false;
  }
  out.push_back(std::move(plain));
}

std::vector<json> Flat(const json& component, const char* list) {
  std::vector<json> out;
  Flatten(component, list, out);
  return out;
}

constexpr char kSpace[] = "\xe2\x96\x81";

json Replaced(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

}  // namespace

std::optional<std::string> GgufPreTokenizer(const json& pre_tokenizer, bool ignore_merges) {
  const std::vector<json> steps = Flat(pre_tokenizer, "pretokenizers");
  for (const Row& row : kRows) {
    if (row.ignore_merges == ignore_merges && steps == Flat(PreTokenizer(row), "pretokenizers")) {
      return std::string(row.name);
    }
  }
  return std::nullopt;
}

std::optional<PreTokenizerParts> PreTokenizerOfGguf(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name != name) continue;
    return PreTokenizerParts{.normalizer = row.nfc ? json{{"type", "NFC"}} : json(),
                             .pre_tokenizer = PreTokenizer(row),
                             .ignore_merges = row.ignore_merges};
  }
  return std::nullopt;
}

std::optional<SentencePieceParts> GgufSentencePiece(const json& normalizer,
                                                    const json& pre_tokenizer) {
  const std::vector<json> steps = Flat(normalizer, "normalizers");
  const std::vector<json> cuts = Flat(pre_tokenizer, "pretokenizers");
  for (const bool space_prefix : {true, false}) {
    if (steps != Flat(SentencePieceNormalizer(space_prefix), "normalizers")) continue;
    // Gemma's cut at spaces finds none any more.
    const bool no_cut = cuts.empty() || (cuts.size() == 1 && cuts[0].value("type", "") == "Split" &&
                                         cuts[0]["pattern"] == json{{"String", " "}});
    if (no_cut) return SentencePieceParts{space_prefix};
  }
  if (steps.empty() && cuts.size() == 1 && cuts[0].value("type", "") == "Metaspace" &&
      cuts[0].value("replacement", "") == kSpace && !cuts[0].value("split", true)) {
    const std::string scheme = cuts[0].value("prepend_scheme", "always");
    return SentencePieceParts{scheme != "never" && cuts[0].value("add_prefix_space", true)};
  }
  return std::nullopt;
}

json SentencePieceNormalizer(bool space_prefix) {
  json steps = json::array();
  if (space_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  steps.push_back(Replaced(" ", kSpace));
  return Sequence("normalizers", std::move(steps));
}

json SentencePieceDecoder(bool space_prefix) {
  json steps =
      json::array({Replaced(kSpace, " "), json{{"type", "ByteFallback"}}, json{{"type", "Fuse"}}});
  if (space_prefix) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1u}, {"stop", 0u}});
  }
  return Sequence("decoders", std::move(steps));
}

}  // namespace cvxq
