#include "pipeline/calibration.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/pipeline/byte_tokenizer.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kVocabulary = 258;

// A text in which every run of a few bytes is unlike all others.
std::string Counting(int64_t numbers, const std::string& after = " ") {
  std::string text;
  for (int64_t i = 0; i < numbers; ++i) text += std::to_string(10000000 + i) + after;
  return text;
}

template <typename T>
std::string Npy(const std::string& descr, const std::string& shape, const std::vector<T>& ids) {
  const std::string header =
      "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size());
  bytes += '\0';
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(T));
  return bytes;
}

std::string Safetensors(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + data;
}

CalibrationOptions Options(std::vector<std::string> inputs, int64_t samples, int64_t seq_len) {
  CalibrationOptions options;
  options.inputs = std::move(inputs);
  options.samples = samples;
  options.seq_len = seq_len;
  return options;
}

std::vector<int32_t> Row(const CalibrationSet& set, int64_t sample) {
  const auto begin = set.ids.begin() + sample * set.seq_len;
  return {begin, begin + set.seq_len};
}

// The text of a sample without its BOS.
std::string TextOf(const CalibrationSet& set, int64_t sample) {
  return ByteTokenizer().Decode(Row(set, sample), true);
}

TEST(LoadCalibrationSet, DrawsSequencesThatDoNotOverlap) {
  const ScratchFolder folder;
  const std::string text = Counting(200);  // 1,800 bytes: room for 28 sequences of 63
  const std::string path = folder.Write("a.txt", text);
  const ByteTokenizer tokenizer;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CalibrationOptions options = Options({path}, 28, 64);
    options.seed = seed;
    const auto set = LoadCalibrationSet(options, tokenizer, kVocabulary);
    ASSERT_TRUE(set.ok()) << set.status();
    ASSERT_EQ(set->ids.size(), 28u * 64u);
    std::vector<size_t> places;
    for (int64_t i = 0; i < 28; ++i) {
      EXPECT_EQ(Row(*set, i).front(), ByteTokenizer::kBos);
      ASSERT_EQ(TextOf(*set, i).size(), 63u);
      places.push_back(text.find(TextOf(*set, i)));
      ASSERT_NE(places.back(), text.npos);
    }
    EXPECT_FALSE(std::is_sorted(places.begin(), places.end()));
    std::sort(places.begin(), places.end());
    for (size_t i = 1; i < places.size(); ++i) EXPECT_GE(places[i], places[i - 1] + 63);
  }
}

TEST(LoadCalibrationSet, IsAFunctionOfTheSeed) {
  const ScratchFolder folder;
  CalibrationOptions options = Options({folder.Write("a.txt", Counting(1000))}, 8, 32);
  const ByteTokenizer tokenizer;
  const auto first = LoadCalibrationSet(options, tokenizer, kVocabulary);
  const auto again = LoadCalibrationSet(options, tokenizer, kVocabulary);
  options.seed = 1;
  const auto other = LoadCalibrationSet(options, tokenizer, kVocabulary);
  ASSERT_TRUE(first.ok() && again.ok() && other.ok());
  EXPECT_EQ(first->ids, again->ids);
  EXPECT_EQ(first->hash, again->hash);
  EXPECT_NE(first->ids, other->ids);
  EXPECT_NE(first->hash, other->hash);
  // The draw is part of the promise of equal bytes: it must not change from release to release.
  EXPECT_EQ(first->hash, 18347600696373699075u);
}

TEST(LoadCalibrationSet, RepeatsATextThatIsShort) {
  const ScratchFolder folder;
  const std::string path = folder.Write("a.txt", Counting(10));  // 90 bytes: 2 sequences of 31
  const auto set = LoadCalibrationSet(Options({path}, 5, 32), ByteTokenizer(), kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->description,
              AllOf(HasSubstr("5 sequences of 32 tokens, seed 0: 5 from " + path),
                    HasSubstr("they overlap: the text is long enough for 2 that do not")));
  EXPECT_EQ(TextOf(*set, 4).size(), 31u);
}

TEST(LoadCalibrationSet, SharesSamplesByWeightAndMixesThem) {
  const ScratchFolder folder;
  const std::string a = folder.Write("a.txt", std::string(5000, 'a'));
  const std::string b = folder.Write("b.txt", std::string(1000, 'b'));
  const std::string c = folder.Write("c.txt", std::string(1000, 'c'));
  const auto set =
      LoadCalibrationSet(Options({a, b + ":2", c + ":0.5"}, 64, 8), ByteTokenizer(), kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  // Quotas 18.29, 36.57, 9.14: the one left over goes to the largest rest.
  std::map<char, int> counts;
  for (int64_t i = 0; i < 64; ++i) {
    ++counts[TextOf(*set, i)[0]];
    // Any first part is a fair mix.
    EXPECT_NEAR(counts['a'], (i + 1) * 18 / 64.0, 2.0) << i;
    EXPECT_NEAR(counts['b'], (i + 1) * 37 / 64.0, 2.0) << i;
    EXPECT_NEAR(counts['c'], (i + 1) * 9 / 64.0, 2.0) << i;
  }
  EXPECT_THAT(counts, ElementsAre(std::pair('a', 18), std::pair('b', 37), std::pair('c', 9)));
}

TEST(LoadCalibrationSet, JoinsDocumentsByEos) {
  const ScratchFolder folder;
  folder.Write("d/1.txt", "abc");
  folder.Write("d/2.jsonl", "{\"body\": \"de\"}\n{\"body\": \"\"}\n{\"body\": \"f\"}\n");
  CalibrationOptions options = Options({folder.path() + "/d"}, 1, 9);
  options.field = "body";
  const auto set = LoadCalibrationSet(options, ByteTokenizer(), kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->ids, ElementsAre(256, 'a', 'b', 'c', 257, 'd', 'e', 257, 'f'));
  options.seq_len = 6;
  const auto bare = LoadCalibrationSet(options, ByteTokenizer(false, false), kVocabulary);
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_THAT(bare->ids, ElementsAre('a', 'b', 'c', 'd', 'e', 'f'));
}

TEST(LoadCalibrationSet, TakesTokenIdsOfEveryKind) {
  const ScratchFolder folder;
  const std::string paths[] = {
      folder.Write("a.npy", Npy<int32_t>("<i4", "(3,)", {5, 6, 7})),
      folder.Write("b.npy", Npy<int64_t>("<i8", "(3,)", {5, 6, 7})),
      folder.Write("c.npy", Npy<uint16_t>("<u2", "(1, 3)", {5, 6, 7})),
      folder.Write("d.npy", Npy<uint32_t>("<u4", "(3, 1)", {5, 6, 7})),
      folder.Write("e.safetensors",
                   Safetensors(R"({"any":{"dtype":"U16","shape":[3],"data_offsets":[0,6]}})",
                               std::string("\5\0\6\0\7\0", 6))),
      folder.Write("f.safetensors",
                   Safetensors(R"({"input_ids":{"dtype":"U16","shape":[3],"data_offsets":[0,6]},)"
                               R"("mask":{"dtype":"U16","shape":[3],"data_offsets":[6,12]}})",
                               std::string("\5\0\6\0\7\0\1\0\1\0\1\0", 12))),
  };
  for (const std::string& path : paths) {
    const auto set = LoadCalibrationSet(Options({path}, 1, 4), ByteTokenizer(), kVocabulary);
    ASSERT_TRUE(set.ok()) << path << set.status();
    EXPECT_THAT(set->ids, ElementsAre(256, 5, 6, 7)) << path;
  }
}

TEST(LoadCalibrationSet, TakesRowsOfSequenceLengthWhole) {
  const ScratchFolder folder;
  folder.Write("1.npy", Npy<int32_t>("<i4", "(2, 3)", {1, 2, 3, 4, 5, 6}));
  folder.Write("2.npy", Npy<int32_t>("<i4", "(1, 3)", {7, 8, 9}));
  const auto set = LoadCalibrationSet(Options({folder.path()}, 3, 3), ByteTokenizer(), kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ((std::set<std::vector<int32_t>>{Row(*set, 0), Row(*set, 1), Row(*set, 2)}),
            (std::set<std::vector<int32_t>>{{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}));
  // Beside text they are a part of the stream like any other.
  folder.Write("3.txt", "abcdef");
  const auto mixed =
      LoadCalibrationSet(Options({folder.path()}, 8, 3), ByteTokenizer(), kVocabulary);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(Row(*mixed, i).front(), ByteTokenizer::kBos);
}

TEST(LoadCalibrationSet, RefusesBadInputs) {
  const ScratchFolder folder;
  const auto write = [&](const char* name, std::string_view contents) {
    return folder.Write(name, contents);
  };
  const std::string several = R"({"a":{"dtype":"U16","shape":[1],"data_offsets":[0,2]},)"
                              R"("b":{"dtype":"I32","shape":[1],"data_offsets":[2,6]}})";
  const struct {
    std::string path;
    absl::StatusCode code;
    const char* message;
  } kCases[] = {
      {write("short.txt", "0123456789"), absl::StatusCode::kInvalidArgument,
       "has 10 tokens, but one sequence takes 15; give more text or a smaller --seq-len"},
      {write("empty.txt", ""), absl::StatusCode::kInvalidArgument, "is empty"},
      {write("blank.jsonl", "\n\n"), absl::StatusCode::kInvalidArgument, "is empty"},
      {write("binary.txt", std::string(100, '\0')), absl::StatusCode::kDataLoss, "NUL"},
      {write("latin1.txt", std::string(100, '\xe9')), absl::StatusCode::kDataLoss, "not UTF-8"},
      {folder.path() + "/none.txt", absl::StatusCode::kNotFound, "no such file"},
      {write("large.npy", Npy<uint16_t>("<u2", "(3,)", {5, 300, 7})),
       absl::StatusCode::kInvalidArgument,
       "the token id 300 at position 1 is outside the model's vocabulary of 258"},
      {write("negative.npy", Npy<int32_t>("<i4", "(3,)", {5, 6, -1})),
       absl::StatusCode::kInvalidArgument, "the token id -1 at position 2"},
      {write("wrap.npy", Npy<int64_t>("<i8", "(1,)", {(int64_t{1} << 32) + 5})),
       absl::StatusCode::kInvalidArgument, "the token id 4294967301 at position 0"},
      {write("float.npy", Npy<float>("<f4", "(1,)", {5})), absl::StatusCode::kUnimplemented,
       "save token ids as"},
      {write("text.npy", "not an array"), absl::StatusCode::kDataLoss, "broken .npy file"},
      {write("text.safetensors", "not a tensor"), absl::StatusCode::kDataLoss, ""},
      {write("several.safetensors", Safetensors(several, std::string(6, '\0'))),
       absl::StatusCode::kInvalidArgument, "(\"a\" \"b\"); name one with --calib-field"},
      {write("floats.safetensors",
             Safetensors(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                         std::string(4, '\0'))),
       absl::StatusCode::kInvalidArgument, "holds no token ids"},
  };
  for (const auto& c : kCases) {
    const Status status =
        LoadCalibrationSet(Options({c.path}, 4, 16), ByteTokenizer(), kVocabulary).status();
    EXPECT_EQ(status.code(), c.code) << c.path << ": " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(c.path), HasSubstr(c.message)));
  }
}

TEST(LoadCalibrationSet, RefusesBadOptions) {
  const ScratchFolder folder;
  const std::string path = folder.Write("a.txt", Counting(100));
  const struct {
    int64_t samples, seq_len;
  } kCases[] = {{0, 16}, {-1, 16}, {4, 1}, {4, -5}, {int64_t{1} << 40, int64_t{1} << 40}};
  for (const auto& c : kCases) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        LoadCalibrationSet(Options({path}, c.samples, c.seq_len), ByteTokenizer(), kVocabulary)
            .status()));
  }
  // A tokenizer that gives more ids than the model has rows.
  const Status status = LoadCalibrationSet(Options({path}, 4, 16), ByteTokenizer(), 40).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("gives the id 49, outside the model's vocabulary of 40"));
}

TEST(LoadCalibrationSet, ReadsOnlyPartsOfALargeText) {
  const ScratchFolder folder;
  // Two files: parts that reach over the end of one go on in the next.
  const std::string text = Counting(40000, "\n");
  folder.Write("1.txt", std::string_view(text).substr(0, text.size() / 2));
  folder.Write("2.txt", std::string_view(text).substr(text.size() / 2));
  CalibrationOptions options = Options({folder.path()}, 16, 32);
  options.whole_text_bytes = 1 << 16;
  const ByteTokenizer tokenizer;
  const auto set = LoadCalibrationSet(options, tokenizer, kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_LT(tokenizer.encoded_bytes(), 16 * 32 * 16 + 1);
  std::vector<size_t> places;
  for (int64_t i = 0; i < 16; ++i) {
    const std::string sample = TextOf(*set, i);
    if (sample.size() == 31) places.push_back(text.find(sample));  // no EOS between parts in it
  }
  ASSERT_GE(places.size(), 8u);
  std::sort(places.begin(), places.end());
  EXPECT_LT(places.front(), text.size() / 4);
  EXPECT_GT(places.back(), text.size() * 3 / 4);
  EXPECT_NE(places.back(), text.npos);
  // Parts lie anywhere in their sixteenth of the text.
  EXPECT_THAT(places, testing::Contains(testing::Truly(
                          [&](size_t place) { return place % (text.size() / 16) > 2 * 512; })));
  const auto again = LoadCalibrationSet(options, tokenizer, kVocabulary);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(set->ids, again->ids);
}

TEST(LoadCalibrationSet, ReadsPartsThatReachOverManySmallFiles) {
  const ScratchFolder folder;
  const std::string text = Counting(460, "\n");
  for (size_t i = 0; i < 230; ++i) {
    folder.Write(std::to_string(100 + i) + ".txt", std::string_view(text).substr(i * 18, 18));
  }
  CalibrationOptions options = Options({folder.path()}, 4, 16);
  options.whole_text_bytes = 4000;
  const ByteTokenizer tokenizer;
  const auto set = LoadCalibrationSet(options, tokenizer, kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_LE(tokenizer.encoded_bytes(), 4 * 16 * 16);
  EXPECT_GE(tokenizer.encoded_bytes(), 4 * 16 * 16 - 4 * 18);
}

TEST(LoadCalibrationSet, WidensPartsUntilTheyHoldLines) {
  const ScratchFolder folder;
  std::string lines;
  for (int i = 0; i < 100; ++i) {
    lines += "{\"text\": \"0123456789\", \"other\": \"" + std::string(2000, 'x') + "\"}\n";
  }
  CalibrationOptions options = Options({folder.Write("a.jsonl", lines)}, 4, 16);
  options.whole_text_bytes = 1000;
  const ByteTokenizer tokenizer;
  const auto set = LoadCalibrationSet(options, tokenizer, kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->ids,
              Each(testing::AnyOf(256, 257, testing::AllOf(testing::Ge('0'), testing::Le('9')))));
}

TEST(BundledCalibrationText, IsTheFileOfTheExamples) {
  const std::string text = BundledCalibrationText();
  std::ifstream stream(CVXQ_SOURCE_DIR "/examples/text/kjv.calib.txt", std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_GT(text.size(), 100000u);
  EXPECT_TRUE(text == file);
  const auto set = LoadCalibrationSet(Options({}, 4, 128), ByteTokenizer(), kVocabulary);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->description, HasSubstr("4 from the bundled text"));
  for (int64_t i = 0; i < 4; ++i) EXPECT_NE(text.find(TextOf(*set, i)), text.npos);
}

TEST(EvaluationBlocks, CutsTheTextFromItsStart) {
  const ScratchFolder folder;
  const std::string path = folder.Write("a.txt", "abcdefghij");
  const auto set = EvaluationBlocks(ByteTokenizer(), kVocabulary, path, 4, 0);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->text_tokens, 10);
  EXPECT_EQ(set->blocks, 3);
  EXPECT_THAT(set->ids, ElementsAre(256, 'a', 'b', 'c', 256, 'd', 'e', 'f', 256, 'g', 'h', 'i'));
  const auto two = EvaluationBlocks(ByteTokenizer(false), kVocabulary, path, 4, 9);
  ASSERT_TRUE(two.ok());
  EXPECT_THAT(two->ids, ElementsAre('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'));
  const auto one = EvaluationBlocks(ByteTokenizer(), kVocabulary, path, 4, 1);
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->blocks, 1);
  EXPECT_EQ(one->text_tokens, 10);
  EXPECT_THAT(one->ids, ElementsAre(256, 'a', 'b', 'c'));
}

TEST(EvaluationBlocks, RefusesAShortText) {
  const ScratchFolder folder;
  const std::string path = folder.Write("a.txt", "abcdefghij");
  const Status status = EvaluationBlocks(ByteTokenizer(), kVocabulary, path, 12, 0).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 10 tokens, but one sequence takes 11"));
  EXPECT_FALSE(EvaluationBlocks(ByteTokenizer(), kVocabulary, path, 1, 0).ok());
}

}  // namespace
}  // namespace cvxq
