// BPE with a heap of candidates over a linked list of symbols.
#include "model/tokenizer_bpe.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/random.h"
#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

// Pieces up to this many bytes are merged whole; longer ones are first cut (NextCut).
constexpr size_t kLongPiece = 48;
// Longer parts are not worth a place in the cache.
constexpr size_t kLongestCached = 96;
constexpr uint64_t kNone = ~uint64_t{0};

uint64_t Pack(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) << 32 | b; }
uint64_t Pack(int32_t a, int32_t b) {
  return Pack(static_cast<uint32_t>(a), static_cast<uint32_t>(b));
}

// `set` has a power of two places, at least one of them empty.
size_t PlaceInSet(const std::vector<uint64_t>& set, uint64_t key) {
  size_t place = Mix64(key) & (set.size() - 1);
  while (set[place] != key && set[place] != kNone) place = (place + 1) & (set.size() - 1);
  return place;
}

}  // namespace

StatusOr<Bpe> Bpe::Create(BpeOptions options) {
  Bpe bpe;
  bpe.vocabulary_ = std::move(options.vocabulary);
  bpe.ignore_merges_ = options.ignore_merges;
  bpe.fuse_unknown_ = options.fuse_unknown;
  if (options.unknown) {
    const auto id = bpe.Find(*options.unknown);
    if (!id) {
      return absl::DataLossError(absl::StrCat("unk_token '", absl::CHexEscape(*options.unknown),
                                              "' is not in the vocabulary"));
    }
    bpe.unknown_ = *id;
  }
  bpe.byte_ids_.fill(-1);
  if (options.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      bpe.byte_ids_[static_cast<size_t>(byte)] =
          bpe.Find(absl::StrFormat("<0x%02X>", byte)).value_or(-1);
    }
  }
  bpe.basic_chars_.assign(0x10000, -1);
  for (const auto& [token, id] : bpe.vocabulary_) {
    if (token.empty()) continue;
    const Utf8Char c = CharAt(token, 0);
    if (static_cast<size_t>(c.size) != token.size()) continue;
    if (c.code < bpe.basic_chars_.size()) {
      bpe.basic_chars_[c.code] = id;
    } else {
      bpe.other_chars_[c.code] = id;
    }
  }
  CVXQ_RETURN_IF_ERROR(bpe.AddMerges(options.merges));
  return bpe;
}

Status Bpe::AddMerges(const std::vector<std::pair<std::string, std::string>>& merges) {
  size_t places = 16;
  while (places < 2 * merges.size() + 2) places *= 2;
  inner_.assign(places, kNone);
  merges_.reserve(merges.size());
  uint32_t rank = 0;
  for (const auto& [left, right] : merges) {
    const std::string whole = left + right;
    for (const std::string* token : {&left, &right, &whole}) {
      if (token->empty() || !Find(*token)) {
        return absl::DataLossError(absl::StrCat("merge ", rank, " needs the token '",
                                                absl::CHexEscape(*token),
                                                "', which is not in the vocabulary"));
      }
    }
    merges_[Pack(*Find(left), *Find(right))] = {rank++, *Find(whole)};
    const uint64_t neighbours = Pack(LastChar(left).code, CharAt(right, 0).code);
    inner_[PlaceInSet(inner_, neighbours)] = neighbours;
  }
  return absl::OkStatus();
}

std::optional<int32_t> Bpe::Find(std::string_view token) const {
  const auto found = vocabulary_.find(token);
  if (found == vocabulary_.end()) return std::nullopt;
  return found->second;
}

int32_t Bpe::CharId(uint32_t code) const {
  if (code < basic_chars_.size()) return basic_chars_[code];
  const auto found = other_chars_.find(code);
  return found == other_chars_.end() ? -1 : found->second;
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(Pack(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::Encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>* ids) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    if (const auto id = Find(piece)) {
      ids->push_back(*id);
      return;
    }
  }
  if (piece.size() <= kLongPiece) {
    EncodePart(piece, scratch, ids);
    return;
  }
  for (size_t from = 0; from < piece.size();) {
    const size_t cut = NextCut(piece, from);
    EncodePart(piece.substr(from, cut - from), scratch, ids);
    from = cut;
  }
}

// The first place after `from` that no merge can reach across, or the end. A merge across a place
// has as result a token that contains the two characters at that place side by side; where both are
// tokens and no merge joins a left part that ends with the first to a right part that starts with
// the second, both sides can be worked alone. So a text without pre-tokenisation, gigabytes
// perhaps, falls into words that the cache knows.
size_t Bpe::NextCut(std::string_view piece, size_t from) const {
  Utf8Char before = CharAt(piece, from);
  size_t at = from + static_cast<size_t>(before.size);
  bool before_known = CharId(before.code) >= 0;
  while (at < piece.size()) {
    const Utf8Char after = CharAt(piece, at);
    const bool known = CharId(after.code) >= 0;
    if (before_known && known) {
      const uint64_t neighbours = Pack(before.code, after.code);
      if (inner_[PlaceInSet(inner_, neighbours)] != neighbours) return at;
    }
    before = after;
    before_known = known;
    at += static_cast<size_t>(after.size);
  }
  return at;
}

void Bpe::EncodePart(std::string_view part, BpeScratch& scratch, std::vector<int32_t>* ids) const {
  BpeScratch::CacheEntry* entry = nullptr;
  if (part.size() <= kLongestCached) {
    entry = &scratch.cache_[StringHash()(part) & (scratch.cache_.size() - 1)];
    if (entry->piece == part) {
      ids->insert(ids->end(), entry->ids.begin(), entry->ids.end());
      return;
    }
  }
  SetSymbols(part, scratch);
  MergeSymbols(scratch);
  const size_t first = ids->size();
  for (const auto& symbol : scratch.symbols_) {
    if (symbol.id >= 0) ids->push_back(symbol.id);
  }
  if (entry != nullptr) {
    entry->piece = part;
    entry->ids.assign(ids->begin() + static_cast<ptrdiff_t>(first), ids->end());
  }
}

void Bpe::SetSymbols(std::string_view part, BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto add = [&](int32_t id) {
    const auto place = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, place - 1, place + 1});
  };
  // An unknown token waits for the next known character (so that it can be fused), even while
  // byte tokens go past it.
  bool unknown_waits = false;
  for (size_t at = 0; at < part.size();) {
    const Utf8Char c = CharAt(part, at);
    const std::string_view bytes = part.substr(at, static_cast<size_t>(c.size));
    at += bytes.size();
    if (const int32_t id = CharId(c.code); id >= 0) {
      if (unknown_waits) add(unknown_);
      unknown_waits = false;
      add(id);
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
    if (std::all_of(bytes.begin(), bytes.end(), [&](char b) { return byte_id(b) >= 0; })) {
      for (const char byte : bytes) add(byte_id(byte));
      continue;
    }
    if (unknown_ < 0) continue;
    if (unknown_waits && !fuse_unknown_) add(unknown_);
    unknown_waits = true;
  }
  if (unknown_waits) add(unknown_);
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::MergeSymbols(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  const auto symbol = [&](int32_t place) -> BpeScratch::Symbol& {
    return symbols[static_cast<size_t>(place)];
  };
  const auto later = [](const auto& a, const auto& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Merge* merge = FindMerge(symbols[i].id, symbols[i + 1].id)) {
      heap.push_back({merge->rank, static_cast<int32_t>(i), merge->result});
    }
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    if (const Merge* merge = FindMerge(symbol(left).id, symbol(right).id)) {
      heap.push_back({merge->rank, left, merge->result});
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };
  while (!heap.empty()) {
    const auto best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    auto& left = symbol(best.position);
    if (left.id < 0 || left.next < 0) continue;
    auto& right = symbol(left.next);
    // Candidates are not withdrawn when a neighbour changes; the stale ones show here.
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->result != best.result) continue;
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbol(left.next).previous = best.position;
    offer(left.previous, best.position);
    offer(best.position, left.next);
  }
}

}  // namespace cvxq::tokenization
