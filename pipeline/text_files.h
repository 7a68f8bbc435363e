// Finds the files, or objects in a bucket, that a user names as text, and reads the documents in
// them.
//
//   CVXQ_ASSIGN_OR_RETURN(TextInput input, FindTextInput("corpus/*.jsonl:2.5"));
//   for (const TextFile& file : input.files) ... ReadDocuments(file, "text") ...
#ifndef CVXQ_PIPELINE_TEXT_FILES_H_
#define CVXQ_PIPELINE_TEXT_FILES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cvxq {

enum class TextFileKind {
  kText,       // the whole file is one document
  kJsonLines,  // .jsonl, .ndjson, .json: each line is an object, a field of it one document
  kTokens,     // .npy, .safetensors: token ids
};

struct TextFile {
  std::string path;
  TextFileKind kind = TextFileKind::kText;
  int64_t bytes = 0;
};

struct TextInput {
  std::string path;  // as the user wrote it, without the weight
  double weight = 1;
  std::vector<TextFile> files;  // never empty
};

// Resolves PATH[:WEIGHT]. PATH is a file of any name, a folder (all files below it that end in
// .txt, .text, .md, .jsonl, .ndjson, .json, .npy or .safetensors; hidden ones are left out), or a
// pattern of glob(7). Files come in bytewise order of their paths. What follows the last colon is a
// weight if it is a number and the path before the colon exists; otherwise the colon belongs to the
// path. s3://BUCKET/KEY[:WEIGHT] is an object, or all objects of those kinds below it; what follows
// the last colon is a weight if it is a number. Token ids are read from files of this machine alone
// (kUnimplemented). kNotFound if nothing is there, kInvalidArgument for a weight outside 1e-9 ...
// 1e9.
StatusOr<TextInput> FindTextInput(const std::string& address);

// The documents of a kText or kJsonLines file; empty ones are left out, so the result may be empty.
// An object may have 256 MiB (kResourceExhausted). `field` names the member of JSON lines.
// kDataLoss for what is not text (a NUL byte, or more than 1 % of the bytes not UTF-8) or not JSON;
// kInvalidArgument for a line without the field.
StatusOr<std::vector<std::string>> ReadDocuments(const TextFile& file, const std::string& field);

// The same from bytes [begin, end) of the file alone: from the first line that starts in them to
// the last that ends in them. A text without line ends is cut between characters; JSON lines longer
// than the range give nothing.
StatusOr<std::vector<std::string>> ReadDocumentsInRange(const TextFile& file,
                                                        const std::string& field, int64_t begin,
                                                        int64_t end);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_TEXT_FILES_H_
