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
  for (const int32_t id : ids) text += stream.Add(id);
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

}  // namespace
}  // namespace cvxq
