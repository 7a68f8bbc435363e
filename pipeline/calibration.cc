#include "pipeline/calibration.h"

#include <algorithm>
#include <optional>
#include <span>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/interrupt.h"
#include "base/random.h"
#include "pipeline/text_files.h"
#include "pipeline/token_stream.h"

extern "C" const char cvxq_calibration_text_begin[], cvxq_calibration_text_end[];

namespace cvxq {
namespace {

constexpr const char* kBundledName = "the bundled text";
constexpr int64_t kMaxIds = int64_t{1} << 31;
// The first guess for a random part of a large text. English has about 4.5 bytes a token.
constexpr int64_t kBytesPerToken = 16;

// What random numbers are drawn for: sub-streams of the seed.
enum Purpose : uint64_t { kParts, kPlaces, kOrder };

// Uniform in [0, range) up to a bias of range / 2^64.
int64_t RandomBelow(uint64_t key, uint64_t counter, int64_t range) {
  const auto product = static_cast<unsigned __int128>(RandomBits(key, counter)) *
                       static_cast<unsigned __int128>(range);
  return static_cast<int64_t>(product >> 64);
}

// `count` different numbers of [0, range) in random order: Floyd's choice, then a shuffle.
std::vector<int64_t> RandomSubset(uint64_t key, int64_t count, int64_t range) {
  std::vector<int64_t> chosen;
  std::unordered_set<int64_t> seen;
  uint64_t counter = 0;
  for (int64_t last = range - count; last < range; ++last) {
    const int64_t pick = RandomBelow(key, counter++, last + 1);
    chosen.push_back(seen.insert(pick).second ? pick : last);
    seen.insert(chosen.back());
  }
  for (int64_t i = count - 1; i > 0; --i) {
    std::swap(chosen[static_cast<size_t>(i)],
              chosen[static_cast<size_t>(RandomBelow(key, counter++, i + 1))]);
  }
  return chosen;
}

// How sequences lie in a stream: `bos` (if any), then `tokens` ids of it.
struct Cut {
  std::optional<int32_t> bos;
  int64_t tokens = 0;
};

Cut CutFor(const TokenStream& stream, const Tokenizer& tokenizer, int64_t seq_len) {
  if (stream.row() == seq_len) return {std::nullopt, seq_len};
  return {tokenizer.bos(), seq_len - (tokenizer.bos() ? 1 : 0)};
}

Status ReadSequence(const TokenStream& stream, const Cut& cut, int64_t begin,
                    std::span<int32_t> sequence) {
  if (cut.bos) {
    sequence.front() = *cut.bos;
    sequence = sequence.subspan(1);
  }
  return stream.Read(begin, sequence);
}

Status CheckLongEnough(const TokenStream& stream, const Cut& cut, const std::string& path) {
  if (stream.size() >= cut.tokens) return absl::OkStatus();
  if (stream.size() == 0) return absl::InvalidArgumentError(absl::StrCat(path, ": is empty"));
  return absl::InvalidArgumentError(absl::StrCat(path, ": has ", stream.size(),
                                                 " tokens, but one sequence takes ", cut.tokens,
                                                 "; give more text or a smaller --seq-len"));
}

Status AppendDocuments(const std::vector<std::string>& documents, const std::string& path,
                       TokenStream* stream) {
  for (const std::string& document : documents) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    CVXQ_RETURN_IF_ERROR(stream->AppendText(document, path));
  }
  return absl::OkStatus();
}

StatusOr<TokenStream> ReadWhole(const TextInput& input, const std::string& field,
                                TokenStream stream) {
  for (const TextFile& file : input.files) {
    if (file.kind == TextFileKind::kTokens) {
      CVXQ_RETURN_IF_ERROR(stream.AppendFile(file.path, field));
    } else {
      CVXQ_ASSIGN_OR_RETURN(auto documents, ReadDocuments(file, field));
      CVXQ_RETURN_IF_ERROR(AppendDocuments(documents, file.path, &stream));
    }
  }
  return stream;
}

int64_t TextBytes(const TextInput& input) {
  int64_t bytes = 0;
  for (const TextFile& file : input.files) {
    if (file.kind != TextFileKind::kTokens) bytes += file.bytes;
  }
  return bytes;
}

// One random part of `part` bytes from each of `parts` equal stretches of the input's texts, taken
// as one row of bytes, so that parts never overlap; files of ids whole.
StatusOr<TokenStream> ReadParts(const TextInput& input, const std::string& field, uint64_t key,
                                int64_t parts, int64_t part, TokenStream stream) {
  const int64_t stretch = TextBytes(input) / parts;
  int64_t file_begin = 0;  // of this file in the row of bytes
  int64_t next = 0;        // the next part that may touch this file
  const auto part_begin = [&](int64_t i) {
    return i * stretch + RandomBelow(key, static_cast<uint64_t>(i), stretch - part + 1);
  };
  for (const TextFile& file : input.files) {
    if (file.kind == TextFileKind::kTokens) {
      CVXQ_RETURN_IF_ERROR(stream.AppendFile(file.path, field));
      continue;
    }
    const int64_t file_end = file_begin + file.bytes;
    for (; next < parts && part_begin(next) < file_end; ++next) {
      const int64_t begin = std::max<int64_t>(part_begin(next) - file_begin, 0);
      const int64_t end = part_begin(next) + part - file_begin;
      CVXQ_ASSIGN_OR_RETURN(auto documents, ReadDocumentsInRange(file, field, begin, end));
      CVXQ_RETURN_IF_ERROR(AppendDocuments(documents, file.path, &stream));
      if (end > file.bytes) break;  // the part goes on in the next file
    }
    file_begin = file_end;
  }
  return stream;
}

// The stream from which `samples` sequences are to be drawn.
StatusOr<TokenStream> ReadInput(const TextInput& input, const CalibrationOptions& options,
                                uint64_t key, int64_t samples, const TokenStream& empty) {
  const int64_t bytes = TextBytes(input);
  if (bytes <= options.whole_text_bytes) return ReadWhole(input, options.field, empty);
  for (int64_t part = options.seq_len * kBytesPerToken; part <= bytes / samples; part *= 2) {
    CVXQ_ASSIGN_OR_RETURN(TokenStream stream,
                          ReadParts(input, options.field, key, samples, part, empty));
    if (stream.size() >= samples * options.seq_len) return stream;
  }
  return ReadWhole(input, options.field, empty);
}

// Where each of `count` sequences of `length` tokens begins, in random order. Rounds of places that
// do not overlap: of a grid with a random start, each place once.
std::vector<int64_t> RandomPlaces(uint64_t key, int64_t count, int64_t length, int64_t size) {
  const int64_t slots = size / length;
  std::vector<int64_t> places;
  for (uint64_t round = 0; static_cast<int64_t>(places.size()) < count; ++round) {
    const uint64_t round_key = DeriveKey(key, round);
    const int64_t start = RandomBelow(round_key, ~uint64_t{0}, size - slots * length + 1);
    const int64_t wanted = std::min(slots, count - static_cast<int64_t>(places.size()));
    for (const int64_t slot : RandomSubset(round_key, wanted, slots)) {
      places.push_back(start + slot * length);
    }
  }
  return places;
}

// Shares `samples` in proportion to the weights: whole parts, then one more to the largest rests.
std::vector<int64_t> Apportion(int64_t samples, const std::vector<TextInput>& inputs) {
  double sum = 0;
  for (const TextInput& input : inputs) sum += input.weight;
  std::vector<int64_t> shares;
  std::vector<std::pair<double, size_t>> rests;  // negative rest, index: sorts as wanted
  int64_t left = samples;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const double quota = static_cast<double>(samples) * (inputs[i].weight / sum);
    shares.push_back(std::min(static_cast<int64_t>(quota), left));
    rests.emplace_back(static_cast<double>(shares.back()) - quota, i);
    left -= shares.back();
  }
  std::sort(rests.begin(), rests.end());
  for (size_t i = 0; left > 0; i = (i + 1) % rests.size(), --left) ++shares[rests[i].second];
  return shares;
}

// The order in which inputs give their samples: sample j of k of an input comes at a random moment
// of the j-th of k equal spans of time.
std::vector<size_t> Interleave(uint64_t key, const std::vector<int64_t>& shares) {
  std::vector<std::tuple<double, size_t>> moments;
  for (size_t input = 0; input < shares.size(); ++input) {
    for (int64_t j = 0; j < shares[input]; ++j) {
      const float within = RandomUniform(DeriveKey(key, input), static_cast<uint64_t>(j));
      moments.emplace_back((static_cast<double>(j) + within) / static_cast<double>(shares[input]),
                           input);
    }
  }
  std::sort(moments.begin(), moments.end());
  std::vector<size_t> order;
  for (const auto& [moment, input] : moments) order.push_back(input);
  return order;
}

uint64_t HashOf(const CalibrationSet& set) {
  uint64_t hash = DeriveKey(static_cast<uint64_t>(set.samples), static_cast<uint64_t>(set.seq_len));
  for (const int32_t id : set.ids) hash = Mix64(hash ^ static_cast<uint64_t>(id));
  return hash;
}

Status CheckOptions(int64_t seq_len) {
  if (seq_len >= 2) return absl::OkStatus();
  return absl::InvalidArgumentError("--seq-len must be at least 2");
}

}  // namespace

std::string BundledCalibrationText() {
  return std::string(cvxq_calibration_text_begin, cvxq_calibration_text_end);
}

StatusOr<CalibrationSet> LoadCalibrationSet(const CalibrationOptions& options,
                                            const Tokenizer& tokenizer, int64_t vocabulary) {
  CVXQ_RETURN_IF_ERROR(CheckOptions(options.seq_len));
  if (options.samples < 1) return absl::InvalidArgumentError("--samples must be at least 1");
  if (options.samples > kMaxIds / options.seq_len) {
    return absl::InvalidArgumentError(absl::StrCat("--samples times --seq-len must not exceed ",
                                                   kMaxIds, " tokens; make one smaller"));
  }
  const bool bundled = options.inputs.empty();
  std::vector<TextInput> inputs;
  for (const std::string& argument : options.inputs) {
    CVXQ_ASSIGN_OR_RETURN(inputs.emplace_back(), FindTextInput(argument));
  }
  if (bundled) inputs.push_back({kBundledName, 1, {}});
  const std::vector<int64_t> shares = Apportion(options.samples, inputs);

  CalibrationSet set;
  set.samples = options.samples;
  set.seq_len = options.seq_len;
  set.ids.resize(static_cast<size_t>(set.samples * set.seq_len));
  const std::vector<size_t> order = Interleave(DeriveKey(options.seed, kOrder), shares);
  const TokenStream empty(tokenizer, vocabulary);
  std::vector<std::string> descriptions;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TextInput& input = inputs[i];
    descriptions.push_back(absl::StrCat(shares[i], " from ", input.path));
    if (shares[i] == 0) continue;
    TokenStream stream = empty;
    if (bundled) {
      CVXQ_RETURN_IF_ERROR(stream.AppendText(BundledCalibrationText(), kBundledName));
    } else {
      const uint64_t key = DeriveKey(options.seed, kParts, i);
      CVXQ_ASSIGN_OR_RETURN(stream, ReadInput(input, options, key, shares[i], empty));
    }
    const Cut cut = CutFor(stream, tokenizer, options.seq_len);
    CVXQ_RETURN_IF_ERROR(CheckLongEnough(stream, cut, input.path));
    if (const int64_t slots = stream.size() / cut.tokens; slots < shares[i]) {
      absl::StrAppend(&descriptions.back(), " (they overlap: the text is long enough for ", slots,
                      " that do not)");
    }
    const std::vector<int64_t> places =
        RandomPlaces(DeriveKey(options.seed, kPlaces, i), shares[i], cut.tokens, stream.size());
    size_t next = 0;
    for (size_t sample = 0; sample < order.size(); ++sample) {
      if (order[sample] != i) continue;
      const auto row = std::span(set.ids).subspan(sample * static_cast<size_t>(set.seq_len),
                                                  static_cast<size_t>(set.seq_len));
      CVXQ_RETURN_IF_ERROR(ReadSequence(stream, cut, places[next++], row));
    }
  }
  set.description = absl::StrCat(set.samples, " sequences of ", set.seq_len, " tokens, seed ",
                                 options.seed, ": ", absl::StrJoin(descriptions, ", "));
  set.hash = HashOf(set);
  return set;
}

StatusOr<EvaluationSet> EvaluationBlocks(const Tokenizer& tokenizer, int64_t vocabulary,
                                         const std::string& path, int64_t seq_len,
                                         int64_t max_sequences, const std::string& field) {
  CVXQ_RETURN_IF_ERROR(CheckOptions(seq_len));
  CVXQ_ASSIGN_OR_RETURN(const TextInput input, FindTextInput(path));
  CVXQ_ASSIGN_OR_RETURN(const TokenStream stream,
                        ReadWhole(input, field, TokenStream(tokenizer, vocabulary)));
  const Cut cut = CutFor(stream, tokenizer, seq_len);
  CVXQ_RETURN_IF_ERROR(CheckLongEnough(stream, cut, path));
  EvaluationSet set;
  set.seq_len = seq_len;
  set.text_tokens = stream.size();
  set.blocks = stream.size() / cut.tokens;
  if (max_sequences > 0) set.blocks = std::min(set.blocks, max_sequences);
  set.ids.resize(static_cast<size_t>(set.blocks * seq_len));
  for (int64_t block = 0; block < set.blocks; ++block) {
    const auto row = std::span(set.ids).subspan(static_cast<size_t>(block * seq_len),
                                                static_cast<size_t>(seq_len));
    CVXQ_RETURN_IF_ERROR(ReadSequence(stream, cut, block * cut.tokens, row));
  }
  return set;
}

}  // namespace cvxq
