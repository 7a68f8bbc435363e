// Finding added tokens in a text.
#include "model/tokenizer_added.h"

#include <algorithm>
#include <utility>

#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

size_t TrailingSpaceStart(std::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    const Utf8Char c = LastChar(text.substr(0, start));
    if (!IsWhitespace(c.code)) break;
    start -= static_cast<size_t>(c.size);
  }
  return start;
}

size_t LeadingSpaceEnd(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const Utf8Char c = CharAt(text, end);
    if (!IsWhitespace(c.code)) break;
    end += static_cast<size_t>(c.size);
  }
  return end;
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWordChar(LastChar(text).code);
}
bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordChar(CharAt(text, 0).code);
}

}  // namespace

void AddedTokens::Trie::Insert(std::string_view text, int32_t id) {
  if (text.empty()) return;
  if (ids.empty()) ids.push_back(-1);
  starts[static_cast<uint8_t>(text.front())] = true;
  uint32_t node = 0;
  for (const char byte : text) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
    const auto [place, is_new] = edges.try_emplace(edge, static_cast<uint32_t>(ids.size()));
    if (is_new) ids.push_back(-1);
    node = place->second;
  }
  ids[node] = id;
}

bool AddedTokens::Trie::Longest(std::string_view text, int32_t* id, size_t* size) const {
  bool found = false;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto edge = edges.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges.end()) break;
    node = edge->second;
    if (ids[node] >= 0) {
      *id = ids[node];
      *size = i + 1;
      found = true;
    }
  }
  return found;
}

void AddedTokens::Add(int32_t id, const AddedToken& token, std::string text) {
  ids_[token.content] = id;
  if (token.special) special_.insert(token.content);
  entries_[id] = {token, std::move(text)};
}

void AddedTokens::Finish() {
  for (const auto& [id, entry] : entries_) {
    (entry.token.normalized ? normalized_ : raw_).Insert(entry.text, id);
  }
}

void AddedTokens::Split(std::string_view text, bool normalized,
                        absl::FunctionRef<void(std::string_view, size_t)> on_text,
                        absl::FunctionRef<void(int32_t)> on_token) const {
  const Trie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;
  int32_t id = 0;
  size_t size = 0;
  for (size_t at = 0; at < text.size();) {
    if (!trie.starts[static_cast<uint8_t>(text[at])] ||
        !trie.Longest(text.substr(at), &id, &size)) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + size;
    at = end;
    const AddedToken& token = entries_.at(id).token;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) {
      begin = begin <= done ? done : done + TrailingSpaceStart(text.substr(done, begin - done));
    }
    if (token.rstrip) end += LeadingSpaceEnd(text.substr(end));
    if (done < begin) on_text(text.substr(done, begin - done), done);
    if (begin < end) on_token(id);  // else the token before took it along
    done = std::max(done, end);
  }
  if (done < text.size()) on_text(text.substr(done), done);
}

std::optional<int32_t> AddedTokens::Find(std::string_view content) const {
  const auto found = ids_.find(std::string(content));
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* AddedTokens::Text(int32_t id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : &found->second.text;
}

int32_t AddedTokens::largest_id() const {
  int32_t largest = -1;
  for (const auto& [id, entry] : entries_) largest = std::max(largest, id);
  return largest;
}

}  // namespace cvxq::tokenization
