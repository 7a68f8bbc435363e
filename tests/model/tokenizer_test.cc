// The tokenizer against golden hashes of the `tokenizers` library
// (tests/data/make_tokenizer_golden.py), its loading, and what it makes of broken files.
#include "model/tokenizer.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer_unicode.h"
#include "nlohmann/json.hpp"
#include "storage/files.h"

namespace cvxq {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kData = CVXQ_SOURCE_DIR "/tests/data/";
const std::string kModels = CVXQ_SOURCE_DIR "/examples/models/";

std::string MustRead(const std::string& path) {
  auto text = ReadFile(path);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *std::move(text) : std::string();
}

std::unique_ptr<const Tokenizer> MustParse(const std::string& text) {
  auto tokenizer = Tokenizer::Parse(text, "test.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// The lines of lines.txt with their escapes undone.
std::vector<std::string> ReadLines() {
  const std::string text = MustRead(kData + "tokenizers/lines.txt");
  std::vector<std::string> lines;
  std::string line;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') {
      lines.push_back(std::move(line));
      line.clear();
    } else if (text[i] != '\\') {
      line.push_back(text[i]);
    } else if (text[++i] == 'x') {
      line.push_back(static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16)));
      i += 2;
    } else {
      line.push_back(text[i] == 'n' ? '\n' : text[i] == 'r' ? '\r' : text[i]);
    }
  }
  return lines;
}

uint32_t Hash(const void* data, size_t size) {
  uint64_t value = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; ++i) {
    value = (value ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  }
  return static_cast<uint32_t>(value ^ value >> 32);
}

std::string Streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = stream.Add(id);
    EXPECT_TRUE(tokenization::IsValidUtf8(piece));
    text += piece;
  }
  return text + stream.Flush();
}

class GoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, SameIdsAndTextAsTheLibrary) {
  const std::string name = GetParam();
  const std::string path = name == "kjv" ? kModels + "kjv-llama-1m/tokenizer.json"
                                         : kData + "tokenizers/" + name + ".json";
  const auto tokenizer = MustParse(MustRead(path));
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<std::string> lines = ReadLines();
  const std::string golden = MustRead(kData + "tokenizers/" + name + ".golden");
  ASSERT_EQ(golden.size(), lines.size() * 8);
  ASSERT_EQ(lines.size(), 10000u);

  int wrong = 0;
  for (size_t i = 0; i < lines.size() && wrong < 10; ++i) {
    uint32_t expected[2];
    std::memcpy(expected, golden.data() + i * 8, 8);
    const std::vector<int32_t> ids = tokenizer->Encode(lines[i], /*add_special_tokens=*/true);
    const std::string text = tokenizer->Decode(ids, /*skip_special_tokens=*/true);
    const bool same_ids = Hash(ids.data(), ids.size() * 4) == expected[0];
    const bool same_text = Hash(text.data(), text.size()) == expected[1];
    const bool same_stream = Streamed(*tokenizer, ids) == text;
    if (same_ids && same_text && same_stream) continue;
    ++wrong;
    ADD_FAILURE() << name << " line " << i + 1 << " [" << lines[i] << "]"
                  << (same_ids ? "" : " ids: " + ::testing::PrintToString(ids))
                  << (same_text ? "" : " text: [" + text + "]")
                  << (same_stream ? "" : " streamed: [" + Streamed(*tokenizer, ids) + "]");
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         ::testing::Values("kjv", "gpt2", "llama3", "qwen2", "command_r", "llama2",
                                           "mistral", "metaspace", "gemma"),
                         [](const auto& info) { return info.param; });

// A folder that is there for one test.
class Folder {
 public:
  explicit Folder(const std::string& name)
      : path_(::testing::TempDir() + "cvxq_tokenizer_" + name) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

json SmallTokenizer() {
  return json::parse(R"({"added_tokens": [{"id": 4, "content": "<s>", "special": true}],
      "decoder": {"type": "Fuse"},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aab": 3},
                "merges": ["a b", ["a", "ab"]]}})");
}

TEST(TokenizerTest, SpecialTokensOfTheExamples) {
  for (const char* name : {"kjv-opt-1m", "kjv-llama-1m"}) {
    const auto tokenizer = Tokenizer::Load(kModels + name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->bos(), 0);
    EXPECT_THAT((*tokenizer)->eos(), ElementsAre(1));
    EXPECT_EQ((*tokenizer)->vocabulary(), 1024);
  }
}

TEST(TokenizerTest, SpecialTokensFromEveryFile) {
  const Folder folder("special");
  folder.Write("tokenizer.json", SmallTokenizer().dump());
  folder.Write("config.json", R"({"bos_token_id": 2, "eos_token_id": [1, 3]})");
  const auto load = [&] { return Tokenizer::Load(folder.path()).value(); };
  EXPECT_EQ(load()->bos(), 2);
  EXPECT_THAT(load()->eos(), ElementsAre(1, 3));
  folder.Write("generation_config.json", R"({"bos_token_id": 1, "eos_token_id": 0})");
  EXPECT_EQ(load()->bos(), 1);
  EXPECT_THAT(load()->eos(), ElementsAre(0, 1, 3));
  folder.Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "ab"})");
  EXPECT_EQ(load()->bos(), 4);
  EXPECT_THAT(load()->eos(), ElementsAre(2, 0, 1, 3));
  folder.Write("tokenizer_config.json", R"({"bos_token": null, "eos_token": "unheard of"})");
  EXPECT_EQ(load()->bos(), 1);
  EXPECT_THAT(load()->eos(), ElementsAre(0, 1, 3));
  folder.Write("tokenizer_config.json", "{");
  EXPECT_THAT(std::string(Tokenizer::Load(folder.path()).status().message()),
              HasSubstr("tokenizer_config.json"));
}

TEST(TokenizerTest, VocabAndMergesFiles) {
  const auto same = MustParse(MustRead(kData + "tokenizers/gpt2.json"));
  const json model = json::parse(MustRead(kData + "tokenizers/gpt2.json"))["model"];
  const Folder folder("vocab");
  folder.Write("vocab.json", model["vocab"].dump());
  std::string merges = "#version: 0.2\n";
  for (const json& merge : model["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), absl::StatusCode::kNotFound);
  folder.Write("merges.txt", merges);

  const std::string text = "It's 1611; \xe2\x82\xac 5</s>  In the  beginning\n";
  const auto plain = Tokenizer::Load(folder.path());
  ASSERT_TRUE(plain.ok()) << plain.status();
  const std::vector<int32_t> ids = (*plain)->Encode(text, /*add_special_tokens=*/true);
  EXPECT_EQ((*plain)->Decode(ids, false), text);
  EXPECT_NE(ids.front(), 0) << "GPT-2 puts nothing in front";

  folder.Write("config.json", R"({"model_type": "opt"})");
  const auto opt = Tokenizer::Load(folder.path());
  ASSERT_TRUE(opt.ok()) << opt.status();
  EXPECT_EQ((*opt)->Encode(text, true), same->Encode(text, true));
  EXPECT_EQ((*opt)->Encode(text, true).front(), 0);
  folder.Write("tokenizer_config.json", R"({"bos_token": "</s>", "add_bos_token": false})");
  EXPECT_EQ(Tokenizer::Load(folder.path()).value()->Encode(text, true), same->Encode(text, false));
}

TEST(TokenizerTest, FolderWithoutTokenizer) {
  const Folder folder("none");
  const auto tokenizer = Tokenizer::Load(folder.path());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(folder.path()));
}

TEST(TokenizerTest, ProcessorsWrapOneAnother) {
  json root = SmallTokenizer();
  root["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [
      {"type": "RobertaProcessing", "cls": ["a", 0], "sep": ["b", 1]}, {"type": "ByteLevel"},
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}},
          {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "y"}}],
       "special_tokens": {"x": {"ids": [4, 3]}, "y": {"ids": [2]}}}]})");
  const auto tokenizer = MustParse(root.dump());
  EXPECT_THAT(tokenizer->Encode("ab", true), ElementsAre(4, 3, 0, 2, 1, 2));
  EXPECT_THAT(tokenizer->Encode("ab", false), ElementsAre(2));
}

// Merges by the definition: the lowest rank, the leftmost among equals, again and again.
std::vector<std::string> MergedByDefinition(
    std::vector<std::string> symbols,
    const std::vector<std::pair<std::string, std::string>>& merges) {
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t rank = 0; rank < merges.size() && !changed; ++rank) {
      for (size_t i = 0; i + 1 < symbols.size() && !changed; ++i) {
        if (symbols[i] != merges[rank].first || symbols[i + 1] != merges[rank].second) continue;
        symbols[i] += symbols[i + 1];
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
        changed = true;
      }
    }
  }
  return symbols;
}

// Long pieces are cut where no merge reaches across; nothing may be seen of it.
TEST(TokenizerTest, LongPiecesAsByDefinition) {
  uint64_t state = 1;
  const auto random = [&](uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  for (int round = 0; round < 30; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c", "d", "e", "\xc3\xa9", "f", "g"};
    json vocab;
    for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
    std::vector<std::pair<std::string, std::string>> merges;
    json merge_list = json::array();
    for (int i = 0; i < 40; ++i) {
      const std::string left = tokens[random(tokens.size())], right = tokens[random(tokens.size())];
      if (left.size() + right.size() > 12 || vocab.contains(left + right)) continue;
      vocab[left + right] = tokens.size();
      tokens.push_back(left + right);
      merges.emplace_back(left, right);
      merge_list.push_back({left, right});
    }
    vocab["?"] = tokens.size();
    tokens.push_back("?");
    const bool fuse = random(2) == 1;
    const json root = {{"model",
                        {{"type", "BPE"},
                         {"vocab", vocab},
                         {"merges", merge_list},
                         {"unk_token", "?"},
                         {"fuse_unk", fuse}}}};
    const auto tokenizer = MustParse(root.dump());

    std::string text;
    std::vector<std::string> symbols;
    for (int i = 0; i < 300; ++i) {
      const std::string c = random(12) == 0 ? "\xe6\x97\xa5" : tokens[random(8)];
      const bool unknown = c.size() == 3;
      if (!(unknown && fuse && i > 0 && text.ends_with(c))) symbols.push_back(unknown ? "?" : c);
      text += c;
    }
    std::vector<int32_t> expected;
    for (const std::string& token : MergedByDefinition(symbols, merges)) {
      expected.push_back(vocab[token].get<int32_t>());
    }
    EXPECT_EQ(tokenizer->Encode(text, false), expected) << text;
  }
}

// Quadratic work would take minutes here.
TEST(TokenizerTest, OnePieceOfManyCharacters) {
  json vocab = {{"a", 0}}, merges = json::array();
  std::string token = "a";
  for (int id = 1; id <= 6; ++id) {
    merges.push_back({token, token});
    token += token;
    vocab[token] = id;
  }
  const json root = {{"decoder", {{"type", "Fuse"}}},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
  const std::string text(1 << 18, 'a');
  const auto tokenizer = MustParse(root.dump());
  const std::vector<int32_t> ids = tokenizer->Encode(text, false);
  EXPECT_EQ(ids, std::vector<int32_t>((1 << 18) / 64, 6));
  EXPECT_EQ(tokenizer->Decode(ids, false), text);
}

// So would the ordering of combining marks.
TEST(TokenizerTest, ManyCombiningMarks) {
  std::string marks = "e", ordered = "\xe1\xba\xb9";  // with the dot below, which comes first
  const int count = 200000;
  for (int i = 0; i < count; ++i) marks += "\xcc\x84\xcc\xa3";  // above, below
  for (int i = 1; i < count; ++i) ordered += "\xcc\xa3";
  for (int i = 0; i < count; ++i) ordered += "\xcc\x84";
  EXPECT_EQ(tokenization::ToNfc(marks), ordered);
}

TEST(TokenizerTest, EndlessBacktrackingLeavesTheRestInOnePiece) {
  json root = SmallTokenizer();
  root["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(?:a|aa)+(?![ab])"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  const auto tokenizer = MustParse(root.dump());
  const std::string text = std::string(60, 'a') + "b";
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, false), false), text);
}

TEST(TokenizerTest, ThreadsShareATokenizer) {
  const auto tokenizer = MustParse(MustRead(kData + "tokenizers/llama3.json"));
  std::vector<std::string> lines = ReadLines();
  lines.resize(300);
  const auto encode_all = [&] {
    std::vector<std::vector<int32_t>> all;
    for (const std::string& line : lines) all.push_back(tokenizer->Encode(line, true));
    return all;
  };
  std::vector<std::vector<std::vector<int32_t>>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = encode_all(); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, encode_all());
}

// A character of four byte tokens appears whole; a broken run appears as it does in Decode.
TEST(StreamDecoderTest, HoldsBytesBack) {
  const auto tokenizer = MustParse(MustRead(kData + "tokenizers/llama2.json"));
  const std::vector<int32_t> ids = tokenizer->Encode("a\xf0\x9f\xa6\x96z", false);
  StreamDecoder stream(*tokenizer);
  std::vector<std::string> pieces;
  for (const int32_t id : ids) pieces.push_back(stream.Add(id));
  EXPECT_THAT(pieces, ElementsAre("a", "", "", "", "", "\xf0\x9f\xa6\x96z"));
  EXPECT_EQ(stream.Flush(), "");

  const int32_t first_byte = ids[1] - 0xf0;
  EXPECT_TRUE(tokenizer->IsByteToken(first_byte));
  const std::vector<int32_t> broken = {ids[0], first_byte + 0xe6, first_byte + 0x97,
                                       first_byte + 0xa5, first_byte + 0xff};
  EXPECT_EQ(Streamed(*tokenizer, broken), tokenizer->Decode(broken, true));
}

struct HostileCase {
  const char* name;
  absl::StatusCode code;
  const char* message;  // a part of it
};

const auto kLoss = absl::StatusCode::kDataLoss;
const auto kUnknown = absl::StatusCode::kUnimplemented;
const HostileCase kHostile[] = {
    {"truncated", kLoss, "JSON"},
    {"empty", kLoss, "JSON"},
    {"not_json", kLoss, ""},
    {"not_utf8", kLoss, "JSON"},
    {"a_list", kLoss, "not a JSON object"},
    {"deep", kLoss, "deep"},
    {"no_model", kLoss, "model: it is missing"},
    {"model_is_string", kLoss, "model"},
    {"model_unknown", kUnknown, "model: type 'Unigram' is not supported"},
    {"vocab_is_list", kLoss, "vocab is not an object"},
    {"id_is_string", kLoss, "vocab: an id is not an integer"},
    {"id_negative", kLoss, "vocab: an id is not an integer"},
    {"id_huge", kLoss, "vocab: an id is not an integer"},
    {"id_fraction", kLoss, "vocab: an id is not an integer"},
    {"id_twice", kLoss, "the id 1 twice"},
    {"merges_missing", kLoss, "merges is missing"},
    {"merges_is_object", kLoss, "merges is not an array"},
    {"merge_unknown_token", kLoss, "merge 1 needs the token 'c'"},
    {"merge_unknown_result", kLoss, "merge 0 needs the token 'ba'"},
    {"merge_of_three", kLoss, "merge 0 is not a pair"},
    {"merge_is_number", kLoss, "merge 0 is not a pair"},
    {"merge_empty_token", kLoss, "merge 0 needs the token ''"},
    {"unk_not_in_vocab", kLoss, "unk_token '<unk>'"},
    {"fuse_unk_is_number", kLoss, "fuse_unk"},
    {"dropout", kUnknown, "dropout"},
    {"word_suffix", kUnknown, "end_of_word_suffix"},
    {"normalizer_unknown", kUnknown, "normalizer: type 'Bert\\nNormalizer'"},
    {"normalizer_no_type", kLoss, "normalizer: type is missing"},
    {"normalizer_is_list", kLoss, "normalizer: it is not an object"},
    {"normalizer_nested", kLoss, "nested too deep"},
    {"normalizer_doubling", kLoss, "too many times longer"},
    {"replace_empty", kLoss, "an empty string as pattern"},
    {"pre_tokenizer_unknown", kUnknown, "pre_tokenizer: type 'Whitespace'"},
    {"regex_invalid", kLoss, "does not compile"},
    {"regex_deep", kLoss, "does not compile"},
    {"regex_long", kLoss, "70000 bytes"},
    {"pattern_missing", kLoss, "pattern is missing"},
    {"behavior_unknown", kUnknown, "behavior 'Shuffled'"},
    {"metaspace_two_chars", kLoss, "replacement is not one character"},
    {"scheme_unknown", kUnknown, "prepend_scheme 'last'"},
    {"decoder_unknown", kUnknown, "decoder: type 'WordPiece'"},
    {"strip_negative", kLoss, "start is not a count"},
    {"processor_unknown", kUnknown, "post_processor: type 'Padding'"},
    {"template_string", kLoss, "single is not an array"},
    {"template_pair", kUnknown, "more than one text"},
    {"template_no_text", kUnknown, "a template without the text"},
    {"template_unknown_token", kLoss, "special_tokens lacks"},
    {"roberta_no_cls", kLoss, "cls"},
    {"added_is_object", kLoss, "added_tokens is not an array"},
    {"added_no_content", kLoss, "content is missing"},
    {"added_id_negative", kLoss, "added_tokens: an id"},
    {"added_flag_is_string", kLoss, "lstrip"},
};

TEST(TokenizerTest, HostileFiles) {
  const std::string folder = kData + "hostile/tokenizer/";
  for (const HostileCase& hostile : kHostile) {
    const auto tokenizer =
        Tokenizer::Parse(MustRead(folder + hostile.name + ".json"), "some/tokenizer.json");
    ASSERT_FALSE(tokenizer.ok()) << hostile.name;
    const std::string message(tokenizer.status().message());
    EXPECT_EQ(tokenizer.status().code(), hostile.code) << hostile.name << ": " << message;
    EXPECT_THAT(message, HasSubstr("some/tokenizer.json")) << hostile.name;
    EXPECT_THAT(message, HasSubstr(hostile.message)) << hostile.name;
    EXPECT_EQ(message.find('\n'), std::string::npos) << hostile.name;
  }
  size_t good = 0, files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    ++files;
    if (!entry.path().filename().string().starts_with("ok_")) continue;
    ++good;
    EXPECT_NE(MustParse(MustRead(entry.path().string())), nullptr) << entry.path();
  }
  EXPECT_EQ(files, good + std::size(kHostile)) << "each broken file needs its line above";
}

}  // namespace
}  // namespace cvxq
