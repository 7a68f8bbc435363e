// Text to token ids and back, as the `tokenizers` library does it: from tokenizer.json (byte-level
// and SentencePiece-style BPE) or from OPT's and GPT-2's vocab.json + merges.txt.
//
//   CVXQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::Load("models/kjv-llama-1m"));
//   std::vector<int32_t> ids = tokenizer->Encode("In the beginning", /*add_special_tokens=*/false);
#ifndef CVXQ_MODEL_TOKENIZER_H_
#define CVXQ_MODEL_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "storage/folder.h"

namespace cvxq {

// Immutable after Load; every member may be called from any thread.
class Tokenizer {
 public:
  // From a checkpoint folder: tokenizer.json, else vocab.json + merges.txt; the names of the
  // special tokens from tokenizer_config.json, their ids else from generation_config.json and
  // config.json.
  static StatusOr<std::unique_ptr<const Tokenizer>> Load(const Folder& folder);
  // Of the folder at an address (storage/folder.h).
  static StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& address);
  // From the text of a tokenizer.json; `where` is for messages. No special tokens are named.
  // kDataLoss for a broken file, kUnimplemented (with the component's name) for one whose parts are
  // not known here. Its "truncation" and "padding" are left to the caller.
  static StatusOr<std::unique_ptr<const Tokenizer>> Parse(std::string_view json, std::string where);

  virtual ~Tokenizer() = default;

  // Broken UTF-8 is replaced by U+FFFD, one for each maximal ill-formed part (as Rust's
  // from_utf8_lossy and Python's errors="replace" do). With add_special_tokens the post-processor's
  // template is applied (BOS and so on). Good for texts up to 2 GB. A regular expression of the
  // file that backtracks without end on some text leaves the rest of that text in one piece.
  virtual std::vector<int32_t> Encode(std::string_view text, bool add_special_tokens) const = 0;
  // The text of ids; unknown ids give nothing. Bytes that are not UTF-8 become U+FFFD.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const = 0;

  // Whether `id` stands for one byte of text (<0xHH>) whose neighbours decide what it becomes: a
  // run of such ids is decoded as a whole.
  virtual bool IsByteToken(int32_t id) const = 0;

  virtual int64_t vocabulary() const = 0;  // largest id + 1
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::vector<int32_t> eos() const = 0;  // all ids that end a text
};

// Turns a growing list of ids into text piece by piece, for streaming. Bytes that are not yet a
// whole character, and runs of byte tokens that have not ended, are held back; the pieces and Flush
// joined are what Decode gives for the whole list. `tokenizer` must outlive it. For one thread.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}
  // The text that `id` adds (may be empty).
  std::string Add(int32_t id);
  // What is held back at the end; the next Add starts a new text.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  std::vector<int32_t> ids_;  // since the last safe cut, after one id of context
  size_t emitted_ = 0;        // bytes of the text of ids_ given out so far
};

}  // namespace cvxq

#endif  // CVXQ_MODEL_TOKENIZER_H_
