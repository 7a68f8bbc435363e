// Byte pair encoding: a piece of text to ids by merging neighbours, lowest rank first and leftmost
// among equals.
#ifndef CVXQ_MODEL_TOKENIZER_BPE_H_
#define CVXQ_MODEL_TOKENIZER_BPE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"

namespace cvxq::tokenization {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using Vocabulary = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

struct BpeOptions {
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::optional<std::string> unknown;                       // the token for unknown characters
  bool fuse_unknown = false;   // neighbouring unknown characters give one token
  bool byte_fallback = false;  // unknown characters give <0xHH> tokens if these exist
  bool ignore_merges = false;  // a piece that is a token is that token
};

// The scratch of one thread: symbols of the piece at hand, and ids of pieces seen lately.
class BpeScratch {
 public:
  BpeScratch() : cache_(size_t{1} << 14) {}

 private:
  friend class Bpe;
  struct Symbol {
    int32_t id;  // -1: merged into a neighbour
    int32_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;
    int32_t result;
  };
  struct CacheEntry {
    std::string piece;
    std::vector<int32_t> ids;
  };
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::vector<CacheEntry> cache_;  // by hash; a newcomer replaces what was there
};

// Immutable; may be used from any thread, each with its own scratch.
class Bpe {
 public:
  Bpe() = default;  // knows no token
  // kDataLoss: a merge or `unknown` names a token that the vocabulary lacks.
  static StatusOr<Bpe> Create(BpeOptions options);

  // Appends the ids of `piece` (valid UTF-8), in O(n log n).
  void Encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  std::optional<int32_t> Find(std::string_view token) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t result;
  };

  Status AddMerges(const std::vector<std::pair<std::string, std::string>>& merges);
  int32_t CharId(uint32_t code) const;  // -1: not a token
  const Merge* FindMerge(int32_t left, int32_t right) const;
  size_t NextCut(std::string_view piece, size_t from) const;
  void EncodePart(std::string_view part, BpeScratch& scratch, std::vector<int32_t>* ids) const;
  void SetSymbols(std::string_view part, BpeScratch& scratch) const;
  void MergeSymbols(BpeScratch& scratch) const;

  Vocabulary vocabulary_;
  std::vector<int32_t> basic_chars_;                   // ids of characters below 0x10000, or -1
  std::unordered_map<uint32_t, int32_t> other_chars_;  // ids of those above
  std::unordered_map<uint64_t, Merge> merges_;         // by left << 32 | right
  std::vector<uint64_t> inner_;                        // hash set, see NextCut
  std::array<int32_t, 256> byte_ids_{};                // <0xHH> with byte_fallback, or -1
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false, ignore_merges_ = false;
};

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_BPE_H_
