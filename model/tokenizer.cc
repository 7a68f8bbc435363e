// The tokenizer: its stages put together, and streaming on top of Decode.
#include "model/tokenizer.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_join.h"
#include "model/tokenizer_parts.h"
#include "model/tokenizer_unicode.h"

namespace cvxq {
namespace tokenization {
namespace {

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(Parts parts, const SpecialTokens& special) : parts_(std::move(parts)) {
    for (const auto& [token, id] : parts_.bpe.vocabulary()) {
      tokens_.emplace(id, token);
      vocabulary_ = std::max<int64_t>(vocabulary_, int64_t{id} + 1);
    }
    vocabulary_ = std::max<int64_t>(vocabulary_, int64_t{parts_.added.largest_id()} + 1);
    joins_bytes_ = std::any_of(
        parts_.decoder.begin(), parts_.decoder.end(),
        [](const DecoderStep& step) { return std::holds_alternative<ByteFallbackDecode>(step); });
    bos_ = Find(special.bos);
    if (!bos_ && !special.bos_ids.empty()) bos_ = special.bos_ids.front();
    if (const auto id = Find(special.eos)) eos_.push_back(*id);
    for (const int32_t id : special.eos_ids) {
      if (std::find(eos_.begin(), eos_.end(), id) == eos_.end()) eos_.push_back(id);
    }
  }

  std::vector<int32_t> Encode(std::string_view text, bool add_special_tokens) const override {
    std::string repaired;
    if (!IsValidUtf8(text)) {
      repaired = RepairUtf8(text);
      text = repaired;
    }
    std::vector<int32_t> ids;
    if (add_special_tokens) ids = parts_.prefix;
    std::unique_ptr<Scratch> scratch = TakeScratch();
    const auto add_token = [&](int32_t id) { ids.push_back(id); };
    parts_.added.Split(
        text, /*normalized=*/false,
        [&](std::string_view part, size_t offset) {
          std::string normal;
          if (!parts_.normalizer.empty()) {
            normal = Normalize(parts_.normalizer, part, scratch->pre_tokenizer.region);
            part = normal;
          }
          parts_.added.Split(
              part, /*normalized=*/true,
              [&](std::string_view plain, size_t inner_offset) {
                const bool at_start = offset == 0 && inner_offset == 0;
                PreTokenize(
                    parts_.pre_tokenizer, plain, at_start, scratch->pre_tokenizer,
                    [&](std::string_view piece) { parts_.bpe.Encode(piece, scratch->bpe, &ids); });
              },
              add_token);
        },
        add_token);
    GiveBack(std::move(scratch));
    if (add_special_tokens) ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
    return ids;
  }

  std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override {
    std::vector<std::string> texts;
    texts.reserve(ids.size());
    for (const int32_t id : ids) {
      const std::string* text = Text(id);
      if (text == nullptr || (skip_special_tokens && parts_.added.IsSpecial(*text))) continue;
      texts.push_back(*text);
    }
    if (parts_.joins_with_spaces) return absl::StrJoin(texts, " ");
    return DecodeTokens(parts_.decoder, std::move(texts));
  }

  bool IsByteToken(int32_t id) const override {
    if (!joins_bytes_) return false;
    const std::string* text = Text(id);
    return text != nullptr && ByteOfToken(*text).has_value();
  }

  int64_t vocabulary() const override { return vocabulary_; }
  std::optional<int32_t> bos() const override { return bos_; }
  std::vector<int32_t> eos() const override { return eos_; }

 private:
  struct Scratch {
    PreTokenizerScratch pre_tokenizer;
    BpeScratch bpe;
  };

  // Scratch goes from call to call (with its cache), each at work in one thread at most.
  std::unique_ptr<Scratch> TakeScratch() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(idle_.back());
    idle_.pop_back();
    return scratch;
  }
  void GiveBack(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

  const std::string* Text(int32_t id) const {
    if (const std::string* text = parts_.added.Text(id)) return text;
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : &found->second;
  }
  std::optional<int32_t> Find(const std::string& token) const {
    if (const auto id = parts_.added.Find(token)) return id;
    return parts_.bpe.Find(token);
  }

  const Parts parts_;
  std::unordered_map<int32_t, std::string> tokens_;  // of the vocabulary
  int64_t vocabulary_ = 0;
  bool joins_bytes_ = false;
  std::optional<int32_t> bos_;
  std::vector<int32_t> eos_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace

std::unique_ptr<const Tokenizer> MakeTokenizer(Parts parts, const SpecialTokens& special) {
  return std::make_unique<BpeTokenizer>(std::move(parts), special);
}

}  // namespace tokenization

namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

std::string StreamDecoder::Add(int32_t id) {
  ids_.push_back(id);
  if (tokenizer_.IsByteToken(id)) return {};
  const std::string text = tokenizer_.Decode(ids_, skip_special_tokens_);
  // Bytes are read left to right, so all is settled but a U+FFFD at the very end, which may stand
  // for the front of a character.
  const bool settled = !text.ends_with(kReplacement);
  const size_t end = settled ? text.size() : text.size() - kReplacement.size();
  std::string piece = end > emitted_ ? text.substr(emitted_, end - emitted_) : std::string();
  emitted_ = std::max(emitted_, end);
  if (settled) {
    // One id that shows is context enough for decoders that treat the beginning in their own way.
    const std::string alone = tokenizer_.Decode({id}, skip_special_tokens_);
    if (!alone.empty()) {
      ids_ = {id};
      emitted_ = alone.size();
    }
  }
  return piece;
}

std::string StreamDecoder::Flush() {
  const std::string text = tokenizer_.Decode(ids_, skip_special_tokens_);
  std::string piece = text.size() > emitted_ ? text.substr(emitted_) : std::string();
  ids_.clear();
  emitted_ = 0;
  return piece;
}

}  // namespace cvxq
