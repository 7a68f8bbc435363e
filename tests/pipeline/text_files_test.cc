#include "pipeline/text_files.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> Paths(const TextInput& input) {
  std::vector<std::string> paths;
  for (const TextFile& file : input.files) paths.push_back(file.path);
  return paths;
}

TextFile File(const std::string& path, TextFileKind kind) {
  return {path, kind, static_cast<int64_t>(std::filesystem::file_size(path))};
}

TEST(FindTextInput, TakesTheLastColonForAWeightOnlyWhereItCanBeOne) {
  const ScratchFolder folder;
  const std::string plain = folder.Write("a.txt", "x"), colon = folder.Write("b:c.txt", "x"),
                    number = folder.Write("d:7", "x");
  const struct {
    std::string argument, path;
    double weight;
  } kCases[] = {
      {plain, plain, 1},          {plain + ":2.5", plain, 2.5}, {plain + ":1e-3", plain, 1e-3},
      {colon, colon, 1},          {colon + ":3", colon, 3},     {number, number, 1},
      {number + ":2", number, 2},
  };
  for (const auto& c : kCases) {
    const auto input = FindTextInput(c.argument);
    ASSERT_TRUE(input.ok()) << input.status();
    EXPECT_EQ(input->path, c.path);
    EXPECT_EQ(input->weight, c.weight);
    EXPECT_THAT(Paths(*input), ElementsAre(c.path));
  }
  for (const char* weight : {":0", ":-1", ":nan", ":inf", ":1e10"}) {
    const Status status = FindTextInput(plain + weight).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("weight"));
  }
}

TEST(FindTextInput, WalksFoldersInOrder) {
  const ScratchFolder folder;
  for (const char* name : {"z.TXT", "a/b.jsonl", "a/a.md", "a.npy", "image.png", ".hidden.txt",
                           ".git/info.txt", "B.safetensors"}) {
    folder.Write(name, "x");
  }
  const auto input = FindTextInput(folder.path() + ":2");
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->weight, 2);
  EXPECT_THAT(Paths(*input),
              ElementsAre(EndsWith("/B.safetensors"), EndsWith("/a.npy"), EndsWith("/a/a.md"),
                          EndsWith("/a/b.jsonl"), EndsWith("/z.TXT")));
  EXPECT_EQ(input->files[0].kind, TextFileKind::kTokens);
  EXPECT_EQ(input->files[3].kind, TextFileKind::kJsonLines);
  EXPECT_EQ(input->files[4].kind, TextFileKind::kText);
}

TEST(FindTextInput, MatchesPatterns) {
  const ScratchFolder folder;
  for (const char* name : {"c1.txt", "c3.txt", "c2.txt", "other.txt"}) folder.Write(name, "x");
  const auto input = FindTextInput(folder.path() + "/c*.txt:0.5");
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->weight, 0.5);
  EXPECT_THAT(Paths(*input),
              ElementsAre(EndsWith("/c1.txt"), EndsWith("/c2.txt"), EndsWith("/c3.txt")));
}

TEST(FindTextInput, NamesWhatIsNotThere) {
  const ScratchFolder folder;
  for (const std::string& path : {folder.path() + "/none.txt", folder.path() + "/*.txt",
                                  folder.path() + "/none.txt:2", folder.path(), std::string()}) {
    const Status status = FindTextInput(path).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST(ReadDocuments, TakesATextWhole) {
  const ScratchFolder folder;
  const auto documents =
      ReadDocuments(File(folder.Write("a.txt", "one\ntwo\xc3\xa9\n"), TextFileKind::kText), "text");
  ASSERT_TRUE(documents.ok()) << documents.status();
  EXPECT_THAT(*documents, ElementsAre("one\ntwo\xc3\xa9\n"));
  const auto none = ReadDocuments(File(folder.Write("b.txt", ""), TextFileKind::kText), "text");
  ASSERT_TRUE(none.ok());
  EXPECT_THAT(*none, IsEmpty());
}

TEST(ReadDocuments, TakesAFieldOfEachJsonLine) {
  const ScratchFolder folder;
  const TextFile file = File(folder.Write("a.jsonl",
                                          "{\"text\": \"one\", \"n\": 1}\r\n\n"
                                          "{\"text\": \"\"}\n{\"body\": 2, \"text\": \"l\\n2\"}"),
                             TextFileKind::kJsonLines);
  const auto documents = ReadDocuments(file, "text");
  ASSERT_TRUE(documents.ok()) << documents.status();
  EXPECT_THAT(*documents, ElementsAre("one", "l\n2"));
}

TEST(ReadDocuments, RefusesWhatIsNotText) {
  const ScratchFolder folder;
  const std::string latin1 = "caf\xe9 cr\xe8me br\xfbl\xe9" + std::string(50, 'x');
  const struct {
    const char* name;
    std::string contents;
    TextFileKind kind;
    absl::StatusCode code;
    const char* message;
  } kCases[] = {
      {"nul.txt", std::string("PK\0\1", 4), TextFileKind::kText, absl::StatusCode::kDataLoss,
       "NUL bytes; give UTF-8 text"},
      {"latin.txt", latin1, TextFileKind::kText, absl::StatusCode::kDataLoss,
       "not UTF-8 text: 4 of 66 bytes"},
      {"surrogate.txt", "\xed\xa0\x80", TextFileKind::kText, absl::StatusCode::kDataLoss,
       "not UTF-8"},
      {"overlong.txt", "\xc0\xaf", TextFileKind::kText, absl::StatusCode::kDataLoss, "not UTF-8"},
      {"high.txt", "\xf4\x90\x80\x80", TextFileKind::kText, absl::StatusCode::kDataLoss,
       "not UTF-8"},
      {"nul.jsonl", std::string("{\"text\": \"a\0\"}", 14), TextFileKind::kJsonLines,
       absl::StatusCode::kDataLoss, "NUL bytes"},
      {"cut.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b", TextFileKind::kJsonLines,
       absl::StatusCode::kDataLoss, "line 2 is not a JSON object"},
      {"list.json", "[{\"text\": \"a\"}]", TextFileKind::kJsonLines, absl::StatusCode::kDataLoss,
       "one object a line (jq"},
      {"deep.jsonl", std::string(100000, '['), TextFileKind::kJsonLines,
       absl::StatusCode::kDataLoss, "line 1"},
      {"field.jsonl", "\n{\"body\": \"a\", \"id\": 1}", TextFileKind::kJsonLines,
       absl::StatusCode::kInvalidArgument,
       "line 2 has no text in the field \"text\"; name another with --calib-field (here: "
       "\"body\")"},
      {"number.jsonl", "{\"text\": 1}", TextFileKind::kJsonLines,
       absl::StatusCode::kInvalidArgument, "(here: none)"},
  };
  for (const auto& c : kCases) {
    const std::string path = folder.Write(c.name, c.contents);
    const Status status = ReadDocuments(File(path, c.kind), "text").status();
    EXPECT_EQ(status.code(), c.code) << c.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path), HasSubstr(c.message)));
  }
}

TEST(ReadDocuments, BearsAFewBrokenBytes) {
  const ScratchFolder folder;
  const std::string text = std::string(200, 'x') + "\xff";
  EXPECT_TRUE(ReadDocuments(File(folder.Write("a.txt", text), TextFileKind::kText), "text").ok());
}

// Cuts of a file at every place: together they give each line at most once, and never a part.
TEST(ReadDocumentsInRange, GivesWholeLines) {
  const ScratchFolder folder;
  std::string contents;
  for (int i = 0; i < 20; ++i) contents += "{\"text\": \"" + std::string(1, 'a' + i) + "\"}\n";
  const TextFile file = File(folder.Write("a.jsonl", contents), TextFileKind::kJsonLines);
  const int64_t line = 14;
  ASSERT_EQ(file.bytes, 20 * line);
  for (int64_t begin = 0; begin <= file.bytes; ++begin) {
    const int64_t end = begin + 4 * line;
    const auto documents = ReadDocumentsInRange(file, "text", begin, end);
    ASSERT_TRUE(documents.ok()) << documents.status();
    std::vector<std::string> expected;
    for (int64_t i = (begin + line - 1) / line; i < std::min(end, file.bytes) / line; ++i) {
      expected.emplace_back(1, static_cast<char>('a' + i));
    }
    EXPECT_EQ(*documents, expected) << begin;
  }
  const auto short_range = ReadDocumentsInRange(file, "text", 3, 12);
  ASSERT_TRUE(short_range.ok());
  EXPECT_THAT(*short_range, IsEmpty());
}

TEST(ReadDocumentsInRange, CutsTextWithoutLinesBetweenCharacters) {
  const ScratchFolder folder;
  std::string contents;
  for (int i = 0; i < 30; ++i) contents += "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82";
  const TextFile file = File(folder.Write("a.txt", contents), TextFileKind::kText);
  for (int64_t begin = 0; begin < 40; ++begin) {
    for (int64_t end = begin + 8; end < begin + 24; ++end) {
      const auto documents = ReadDocumentsInRange(file, "text", begin, end);
      // A single broken byte of so few would be refused as not UTF-8.
      ASSERT_TRUE(documents.ok()) << documents.status();
      ASSERT_EQ(documents->size(), 1u);
      EXPECT_GE(static_cast<int64_t>(documents->front().size()), end - begin - 6);
    }
  }
}

TEST(ReadDocumentsInRange, NamesTheByteOfABadLine) {
  const ScratchFolder folder;
  const TextFile file =
      File(folder.Write("a.jsonl", "{\"text\": \"a\"}\n{bad}\n{\"text\": \"b\"}\n"),
           TextFileKind::kJsonLines);
  const Status status = ReadDocumentsInRange(file, "text", 2, file.bytes).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("the line at byte 14 is not a JSON object"));
}

}  // namespace
}  // namespace cvxq
