// Each step hands its pieces straight to the next one, so that no list of all pieces of a long text
// is ever held.
#include "model/tokenizer_pretokenizer.h"

#include "model/tokenizer_bytes.h"
#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

// Folds (begin, end, is_match) ranges that follow one another into pieces by a SplitBehavior.
template <typename Emit>
class Folder {
 public:
  Folder(SplitBehavior behavior, Emit emit) : behavior_(behavior), emit_(emit) {}

  void Add(size_t begin, size_t end, bool is_match) {
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        emit_(begin, end);
        return;
      case SplitBehavior::kRemoved:
        if (!is_match) emit_(begin, end);
        return;
      case SplitBehavior::kContiguous:
        Hold(begin, end, is_match, /*join=*/is_match == last_is_match_);
        return;
      case SplitBehavior::kMergedWithPrevious:
        Hold(begin, end, is_match, /*join=*/is_match && !last_is_match_);
        return;
      case SplitBehavior::kMergedWithNext:
        Hold(begin, end, is_match, /*join=*/!is_match && last_is_match_);
        return;
    }
  }
  void Finish() {
    if (held_) emit_(begin_, end_);
  }

 private:
  // Joins the range to the held one, or lets that one go and holds this.
  void Hold(size_t begin, size_t end, bool is_match, bool join) {
    if (held_ && join) {
      end_ = end;
    } else {
      Finish();
      begin_ = begin;
      end_ = end;
    }
    held_ = true;
    last_is_match_ = is_match;
  }

  const SplitBehavior behavior_;
  Emit emit_;
  bool held_ = false, last_is_match_ = false;
  size_t begin_ = 0, end_ = 0;
};

// One text on its way through the steps.
class Run {
 public:
  Run(const std::vector<PreTokenizerStep>& steps, PreTokenizerScratch& scratch,
      absl::FunctionRef<void(std::string_view)> sink)
      : steps_(steps), scratch_(scratch), sink_(sink) {
    scratch_.texts.resize(steps.size());
  }

  void Pass(size_t index, std::string_view piece, bool at_start) {
    if (piece.empty()) return;
    if (index == steps_.size()) {
      sink_(piece);
      return;
    }
    std::visit([&](const auto& step) { Apply(step, index, piece, at_start); }, steps_[index]);
  }

 private:
  template <typename Ranges>  // ranges(visit) calls visit(begin, end, is_match)
  void Split(SplitBehavior behavior, size_t index, std::string_view piece, bool at_start,
             Ranges ranges) {
    Folder folder(behavior, [&](size_t begin, size_t end) {
      Pass(index + 1, piece.substr(begin, end - begin), at_start && begin == 0);
    });
    ranges([&](size_t begin, size_t end, bool is_match) { folder.Add(begin, end, is_match); });
    folder.Finish();
  }

  void Apply(const SplitStep& step, size_t index, std::string_view piece, bool at_start) {
    Split(step.behavior, index, piece, at_start, [&](auto visit) {
      step.pattern.ForEachRange(piece, scratch_.region, [&](size_t begin, size_t end, bool match) {
        visit(begin, end, match != step.invert);
      });
    });
  }

  void Apply(const DigitsStep& step, size_t index, std::string_view piece, bool at_start) {
    const auto behavior = step.individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    Split(behavior, index, piece, at_start, [&](auto visit) {
      size_t done = 0;
      for (size_t at = 0; at < piece.size();) {
        const Utf8Char c = CharAt(piece, at);
        const size_t next = at + static_cast<size_t>(c.size);
        if (IsNumber(c.code)) {
          if (done < at) visit(done, at, false);
          visit(at, next, true);
          done = next;
        }
        at = next;
      }
      if (done < piece.size()) visit(done, piece.size(), false);
    });
  }

  void Apply(const ByteLevelStep& step, size_t index, std::string_view piece, bool at_start) {
    std::string spaced;
    if (step.add_prefix_space && piece.front() != ' ') {
      spaced = " " + std::string(piece);
      piece = spaced;
    }
    const auto write = [&](size_t begin, size_t end) {
      if (begin == end) return;
      std::string& text = scratch_.texts[index];
      text.clear();
      AppendByteLevel(piece.substr(begin, end - begin), &text);
      Pass(index + 1, text, at_start && begin == 0);
    };
    if (step.pattern.empty()) {
      write(0, piece.size());
    } else {
      step.pattern.front().ForEachRange(piece, scratch_.region,
                                        [&](size_t begin, size_t end, bool) { write(begin, end); });
    }
  }

  void Apply(const MetaspaceStep& step, size_t index, std::string_view piece, bool at_start) {
    std::string& text = scratch_.texts[index];
    text.clear();
    for (const char c : piece) {
      if (c == ' ') {
        text.append(step.replacement);
      } else {
        text.push_back(c);
      }
    }
    if (step.scheme == PrependScheme::kAlways ||
        (step.scheme == PrependScheme::kFirst && at_start)) {
      if (!text.starts_with(step.replacement)) text.insert(0, step.replacement);
    }
    if (!step.split) {
      Pass(index + 1, text, at_start);
      return;
    }
    Split(SplitBehavior::kMergedWithNext, index, text, at_start, [&](auto visit) {
      size_t done = 0;
      for (size_t at; (at = text.find(step.replacement, done)) != std::string::npos;) {
        if (done < at) visit(done, at, false);
        done = at + step.replacement.size();
        visit(at, done, true);
      }
      if (done < text.size()) visit(done, text.size(), false);
    });
  }

  const std::vector<PreTokenizerStep>& steps_;
  PreTokenizerScratch& scratch_;
  absl::FunctionRef<void(std::string_view)> sink_;
};

}  // namespace

void PreTokenize(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool at_start,
                 PreTokenizerScratch& scratch, absl::FunctionRef<void(std::string_view)> sink) {
  Run(steps, scratch, sink).Pass(0, text, at_start);
}

StatusOr<Pattern> Gpt2Pattern() {
  return Pattern::Regex(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
}

}  // namespace cvxq::tokenization
