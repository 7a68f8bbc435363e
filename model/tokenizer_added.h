// Tokens that are found in the text as they stand, before and beside BPE: <s>, <|im_start|>, ...
#ifndef CVXQ_MODEL_TOKENIZER_ADDED_H_
#define CVXQ_MODEL_TOKENIZER_ADDED_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/functional/function_ref.h"

namespace cvxq::tokenization {

struct AddedToken {
  std::string content;
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // takes the whitespace before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // looked for, in its normalised form, in the normalised text
  bool special = false;      // left out by Decode on demand
};

class AddedTokens {
 public:
  // `text` is what to look for: the content, normalised if so asked. The same id again replaces.
  void Add(int32_t id, const AddedToken& token, std::string text);
  // Call once after the last Add.
  void Finish();

  // Cuts `text` at the tokens with this `normalized`: leftmost, longest first. Calls on_text(part,
  // offset) for parts between them, none empty, and on_token(id), in order.
  void Split(std::string_view text, bool normalized,
             absl::FunctionRef<void(std::string_view, size_t)> on_text,
             absl::FunctionRef<void(int32_t)> on_token) const;

  std::optional<int32_t> Find(std::string_view content) const;
  // What Decode starts from; null if the id is not an added token.
  const std::string* Text(int32_t id) const;
  bool IsSpecial(const std::string& text) const { return special_.count(text) > 0; }
  int32_t largest_id() const;  // -1: none

 private:
  struct Entry {
    AddedToken token;
    std::string text;
  };
  // A tree over bytes: edges (node << 8 | byte) -> node. Node 0 is the root.
  struct Trie {
    std::unordered_map<uint64_t, uint32_t> edges;
    std::vector<int32_t> ids;  // of nodes; -1: no token ends here
    bool starts[256] = {};     // bytes that tokens start with

    void Insert(std::string_view text, int32_t id);
    // The longest token at the front of `text`; false if none.
    bool Longest(std::string_view text, int32_t* id, size_t* size) const;
  };

  std::unordered_map<int32_t, Entry> entries_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_set<std::string> special_;
  Trie raw_, normalized_;
};

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_ADDED_H_
