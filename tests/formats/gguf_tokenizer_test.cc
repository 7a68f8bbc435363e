#include "formats/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "formats/gguf_tokenizer_keys.h"
#include "tests/formats/gguf_testing.h"

namespace cvxq {
namespace {

// A folder with one of the test tokenizers, and the file made of it.
class GgufTokenizerTest : public testing::Test {
 protected:
  void Take(const std::string& name) {
    Put(folder_.File("tokenizer.json"), Slurp(kData + "tokenizers/" + name + ".json"));
  }
  Status Add(int64_t vocabulary, GgufMetadata& metadata) {
    CVXQ_ASSIGN_OR_RETURN(const auto folder, Folder::Open(folder_.path()));
    return AddGgufTokenizer(*folder, vocabulary, metadata);
  }
  // Writes a file of metadata alone and opens it. Without `own`, as one of others: our key is
  // renamed.
  StatusOr<std::shared_ptr<const GgufFile>> Reopen(const GgufMetadata& metadata, bool own = true) {
    const std::string path = folder_.File("a.gguf");
    CVXQ_ASSIGN_OR_RETURN(auto writer, GgufWriter::Create(path, metadata, {}));
    CVXQ_RETURN_IF_ERROR(writer->Finish());
    if (!own) {
      std::string bytes = Slurp(path);
      const size_t at = bytes.find(kTokenizerFrameKey);
      if (at == std::string::npos) return absl::NotFoundError("our key");
      bytes[at] = 'C';
      Put(path, bytes);
    }
    return GgufFile::Open(path);
  }
  StatusOr<std::shared_ptr<const GgufFile>> Convert(int64_t vocabulary, bool own = true) {
    GgufMetadata metadata;
    CVXQ_RETURN_IF_ERROR(Add(vocabulary, metadata));
    return Reopen(metadata, own);
  }
  std::unique_ptr<const Tokenizer> Original() { return Tokenizer::Load(folder_.path()).value(); }

  TempFolder folder_;
};

// Every fifth of the lines that tokenizers find hard, and some of the Bible.
std::vector<std::string> Lines() {
  const std::vector<std::string> hard =
      absl::StrSplit(Slurp(kData + "tokenizers/lines.txt"), '\n', absl::SkipEmpty());
  std::vector<std::string> lines = absl::StrSplit(
      Slurp(std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt").substr(0, 20000), '\n');
  for (size_t i = 0; i < hard.size(); i += 5) lines.push_back(hard[i]);
  return lines;
}

void ExpectSameIds(const Tokenizer& a, const Tokenizer& b) {
  for (const std::string& line : Lines()) {
    ASSERT_EQ(a.Encode(line, true), b.Encode(line, true)) << line;
    const std::vector<int32_t> ids = a.Encode(line, false);
    ASSERT_EQ(a.Decode(ids, true), b.Decode(ids, true)) << line;
  }
}

TEST_F(GgufTokenizerTest, GivesTheSameIdsBack) {
  const std::map<std::string, std::string> pre = {{"gpt2", "gpt-2"},     {"llama3", "llama-bpe"},
                                                  {"qwen2", "qwen2"},    {"command_r", "command-r"},
                                                  {"llama2", "default"}, {"mistral", "default"},
                                                  {"gemma", "default"}};
  for (const auto& [name, expected] : pre) {
    SCOPED_TRACE(name);
    Take(name);
    const auto file = Convert(1100);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->Find("tokenizer.ggml.pre")->String(), expected);
    EXPECT_EQ((*file)->Find("tokenizer.ggml.tokens")->count(), 1100u);
    EXPECT_EQ((*file)->Find("tokenizer.ggml.token_type")->count(), 1100u);
    const auto back = TokenizerFromGguf(**file);
    ASSERT_TRUE(back.ok()) << back.status();
    ExpectSameIds(*Original(), **back);
  }
}

// Without our key, from what others read: but for flags of added tokens that they cannot say.
TEST_F(GgufTokenizerTest, GivesTheSameIdsBackFromStandardKeys) {
  for (const std::string name : {"gpt2", "llama3", "command_r"}) {
    SCOPED_TRACE(name);
    Take(name);
    const auto file = Convert(1100, /*own=*/false);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto back = TokenizerFromGguf(**file);
    ASSERT_TRUE(back.ok()) << back.status();
    ExpectSameIds(*Original(), **back);
  }
  for (const std::string name : {"llama2", "gemma", "qwen2"}) {
    SCOPED_TRACE(name);
    Take(name);
    nlohmann::json root = nlohmann::json::parse(Slurp(folder_.File("tokenizer.json")));
    nlohmann::json plain = nlohmann::json::array();
    for (const auto& token : root["added_tokens"]) {
      if (token["special"] == true && token["lstrip"] == false) plain.push_back(token);
    }
    root["added_tokens"] = plain;
    Put(folder_.File("tokenizer.json"), root.dump());
    const auto file = Convert(1100, /*own=*/false);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto back = TokenizerFromGguf(**file);
    ASSERT_TRUE(back.ok()) << back.status();
    ExpectSameIds(*Original(), **back);
  }
}

TEST_F(GgufTokenizerTest, NamesTheExamplesCutting) {
  const auto folder = Folder::Open(kExample).value();
  GgufMetadata metadata;
  ASSERT_TRUE(AddGgufTokenizer(*folder, 1024, metadata).ok());
  const auto file = Reopen(metadata);
  ASSERT_TRUE(file.ok()) << file.status();
  // Llama 3's expression, without passing whole tokens by.
  EXPECT_EQ((*file)->Find("tokenizer.ggml.pre")->String(), "smaug-bpe");
  EXPECT_EQ((*file)->Find("tokenizer.ggml.add_bos_token")->Bool(), true);
  EXPECT_EQ((*file)->Find("tokenizer.ggml.bos_token_id")->Integer(), 0);
  EXPECT_EQ((*file)->Find("tokenizer.ggml.eos_token_id")->Integer(), 1);
  const auto back = TokenizerFromGguf(**file);
  ASSERT_TRUE(back.ok()) << back.status();
  const auto original = Tokenizer::Load(kExample).value();
  ExpectSameIds(*original, **back);
  EXPECT_EQ((*back)->bos(), original->bos());
  EXPECT_EQ((*back)->eos(), original->eos());
}

TEST_F(GgufTokenizerTest, PadsAndCutsToTheTokenTable) {
  Take("qwen2");
  const auto file = Convert(910);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokens = *(*file)->Find("tokenizer.ggml.tokens")->Strings();
  const auto types = *(*file)->Find("tokenizer.ggml.token_type")->Integers();
  EXPECT_EQ(tokens[900], "<|im_start|>");
  EXPECT_EQ(types[900], static_cast<int>(GgufTokenType::kControl));
  EXPECT_EQ(tokens[904], "WORD");
  EXPECT_EQ(types[904], static_cast<int>(GgufTokenType::kUser));
  EXPECT_EQ(types[0], static_cast<int>(GgufTokenType::kNormal));
  EXPECT_EQ(tokens[909], "[PAD909]");
  EXPECT_EQ(types[909], static_cast<int>(GgufTokenType::kUnused));

  const auto cut = Convert(903);
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ((*cut)->Find("tokenizer.ggml.tokens")->count(), 903u);
  ASSERT_TRUE(TokenizerFromGguf(**cut).ok());
}

TEST_F(GgufTokenizerTest, ScoresTellTheOrderOfMerges) {
  Take("llama2");
  const auto file = Convert(1061);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("tokenizer.ggml.model")->String(), "llama");
  EXPECT_EQ((*file)->Find("tokenizer.ggml.add_space_prefix")->Bool(), true);
  const auto scores = *(*file)->Find("tokenizer.ggml.scores")->Floats();
  const auto types = *(*file)->Find("tokenizer.ggml.token_type")->Integers();
  const auto tokens = *(*file)->Find("tokenizer.ggml.tokens")->Strings();
  EXPECT_EQ(types[0], static_cast<int>(GgufTokenType::kUnknown));
  EXPECT_EQ(types[1], static_cast<int>(GgufTokenType::kControl));
  EXPECT_EQ(types[3], static_cast<int>(GgufTokenType::kByte));
  std::map<std::string, double> score;
  for (size_t i = 0; i < tokens.size(); ++i) score[std::string(tokens[i])] = scores[i];
  double last = 1;
  const auto root = nlohmann::json::parse(Slurp(folder_.File("tokenizer.json")));
  for (const auto& merge : root["model"]["merges"]) {
    const std::string left = merge[0], right = merge[1];
    EXPECT_LT(score.at(left + right), last) << left << " " << right;
    last = score.at(left + right);
  }
}

// A file of others without merges: SentencePiece's merges follow from the scores. Ten tokens whose
// every cut in two tokens is a merge.
TEST_F(GgufTokenizerTest, ReadsScoresWithoutMerges) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  std::vector<float> scores(3, 0.0f);
  const auto add = [&](const std::string& token, float score) {
    tokens.push_back(token);
    types.push_back(1);
    scores.push_back(score);
  };
  add("ab", -1);
  add("bc", 0);
  add("abc", -2);
  for (const char* token : {"a", "b", "c", "\xe2\x96\x81"}) add(token, -10);
  GgufMetadata metadata;
  metadata.String("tokenizer.ggml.model", "llama");
  metadata.Strings("tokenizer.ggml.tokens", tokens);
  metadata.F32s("tokenizer.ggml.scores", scores);
  metadata.I32s("tokenizer.ggml.token_type", types);
  metadata.U32("tokenizer.ggml.bos_token_id", 1);
  metadata.U32("tokenizer.ggml.unknown_token_id", 0);
  const auto file = Reopen(metadata);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = TokenizerFromGguf(**file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // <s>, a space before the text; of "abb" first nothing but "ab"; "abc" by way of "bc".
  EXPECT_EQ((*tokenizer)->Encode("abb", true), (std::vector<int32_t>{1, 9, 3, 7}));
  EXPECT_EQ((*tokenizer)->Encode("abc", false), (std::vector<int32_t>{9, 5}));
  EXPECT_EQ((*tokenizer)->Encode("bcx", false), (std::vector<int32_t>{9, 4, 0}));
  EXPECT_EQ((*tokenizer)->Decode({9, 5, 9, 6}, true), "abc a");
}

TEST_F(GgufTokenizerTest, RefusesWhatLlamaCppCannotBeTold) {
  GgufMetadata metadata;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  Take("metaspace");  // no byte fallback
  ExpectError(Add(1100, metadata), kUnimplemented, "which llama.cpp has no name for");
  const auto edit = [&](const std::string& name, auto change) {
    nlohmann::json root = nlohmann::json::parse(Slurp(kData + "tokenizers/" + name + ".json"));
    change(root);
    Put(folder_.File("tokenizer.json"), root.dump());
    metadata = {};
    return Add(1100, metadata);
  };
  ExpectError(edit("qwen2", [](auto& r) { r["model"]["ignore_merges"] = true; }), kUnimplemented,
              "it cuts a text into pieces");
  ExpectError(edit("gpt2", [](auto& r) { r["pre_tokenizer"]["add_prefix_space"] = true; }),
              kUnimplemented, "it cuts a text into pieces");
  ExpectError(edit("gpt2",
                   [](auto& r) {
                     r["normalizer"] = {{"type", "Prepend"}, {"prepend", "x"}};
                   }),
              kUnimplemented, "its normalizer");
  ExpectError(edit("gpt2",
                   [](auto& r) {
                     auto& single = r["post_processor"]["single"];
                     single.insert(single.begin(), single[0]);
                   }),
              kUnimplemented, "more than one token");
  // Broken files, in the words of the tokenizer itself.
  ExpectError(edit("gpt2", [](auto& r) { r["model"]["vocab"] = 3; }), absl::StatusCode::kDataLoss,
              "tokenizer.json: model");
  Put(folder_.File("tokenizer.json"), "{");
  ExpectError(Add(1100, metadata), absl::StatusCode::kDataLoss, "tokenizer.json");
  std::filesystem::remove(folder_.File("tokenizer.json"));
  ExpectError(Add(1100, metadata), absl::StatusCode::kNotFound, "tokenizer.json is missing");
  // A token that each text begins with must have a row.
  Take("gpt2");
  nlohmann::json root = nlohmann::json::parse(Slurp(folder_.File("tokenizer.json")));
  root["post_processor"]["special_tokens"]["</s>"]["ids"] = {899};
  Put(folder_.File("tokenizer.json"), root.dump());
  ExpectError(Add(890, metadata), absl::StatusCode::kDataLoss, "has no row");
}

TEST_F(GgufTokenizerTest, RefusesBrokenKeys) {
  const auto read = [&](const std::vector<std::string>& tokens, const std::vector<int32_t>& types,
                        const std::vector<std::string>& merges, const std::string& pre) {
    GgufMetadata metadata;
    metadata.String("tokenizer.ggml.model", "gpt2");
    metadata.String("tokenizer.ggml.pre", pre);
    metadata.Strings("tokenizer.ggml.tokens", tokens);
    metadata.I32s("tokenizer.ggml.token_type", types);
    metadata.Strings("tokenizer.ggml.merges", merges);
    return TokenizerFromGguf(**Reopen(metadata)).status();
  };
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  EXPECT_TRUE(read({"a", "b", "ab"}, {1, 1, 1}, {"a b"}, "gpt-2").ok());
  ExpectError(read({"a", "b", "a"}, {1, 1, 1}, {}, "gpt-2"), kDataLoss, "token 2 comes twice");
  ExpectError(read({"a", "\xff"}, {1, 1}, {}, "gpt-2"), kDataLoss, "token 1 is no UTF-8");
  ExpectError(read({"a", "b"}, {1}, {}, "gpt-2"), kDataLoss, "token_type");
  ExpectError(read({"a", "b"}, {1, 1}, {"ab"}, "gpt-2"), kDataLoss, "merge 0 is no pair");
  ExpectError(read({"a", "b"}, {1, 1}, {"a b"}, "gpt-2"), kDataLoss, "not in the vocabulary");
  ExpectError(read({"a", "b"}, {1, 1}, {}, "gpt-9"), absl::StatusCode::kUnimplemented, "gpt-9");
  GgufMetadata none;
  none.String("tokenizer.ggml.model", "gpt2");
  ExpectError(TokenizerFromGguf(**Reopen(none)).status(), kDataLoss, "tokens are missing");
}

}  // namespace
}  // namespace cvxq
