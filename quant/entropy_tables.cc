#include "quant/entropy_tables.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/range_coder.h"
#include "quant/trellis.h"

namespace cvxq {
namespace {

constexpr int kMaxStep = 16 * kFrequencyBits;  // of the grid of frequencies: 2^(step / 16) slots
constexpr size_t kChecksumBytes = 4;
constexpr int kTables = kSymbolClasses * kTrellisGrids;

// 2^(step / 16) in 1/32768: the same integers everywhere.
uint64_t StepWeight(int step) {
  static constexpr uint64_t kSixteenth[16] = {32768, 34219, 35734, 37316, 38968, 40693,
                                              42495, 44376, 46341, 48393, 50535, 52773,
                                              55109, 57549, 60097, 62757};
  return kSixteenth[step % 16] << (step / 16);
}

constexpr int kMaxMagnitude = kMaxCode / 2;  // of a symbol k: codes are 2 k and 2 k - 1

// Bytes of an escape's value (rans.h).
int EscapeBytes(int64_t beyond) {
  int bytes = 1;
  for (int64_t value = 2 * beyond; value >= 128; value >>= 7) ++bytes;
  return bytes;
}

// What one symbol of each kind gets of kFrequencySum.
struct Frequencies {
  std::vector<int> magnitude;  // [A + 1]; beyond 0 for each sign
  int escape = 1;

  // In bits.
  double Cost(std::span<const uint64_t> bins) const {
    const int64_t symbols = static_cast<int64_t>(magnitude.size());
    double bits = 0;
    for (int64_t m = 0; m < static_cast<int64_t>(bins.size()); ++m) {
      if (bins[m] == 0) continue;
      const int frequency = m < symbols ? magnitude[m] : escape;
      const double each =
          kFrequencyBits - std::log2(frequency) + (m < symbols ? 0 : 8 * EscapeBytes(m - symbols));
      bits += each * static_cast<double>(bins[m]);
    }
    return bits;
  }
};

// Frequencies in proportion to 2^(step / 16), at least 1 each, exact in their sum: rounded so that
// the sum from the largest magnitude down to any other is right; zero takes what is left.
Frequencies FrequenciesOf(std::span<const uint8_t> magnitude, int escape) {
  const int largest = static_cast<int>(magnitude.size()) - 1;
  uint64_t total = StepWeight(magnitude[0]) + StepWeight(escape);
  for (int m = 1; m <= largest; ++m) total += 2 * StepWeight(magnitude[m]);
  // What a symbol is due beyond its one slot, in 1/65536 of a slot.
  const auto due = [&](int step) {
    const uint64_t slots = (StepWeight(step) << (kFrequencyBits + 16)) / total;
    return slots > 1 << 16 ? slots - (1 << 16) : 0;
  };
  uint64_t sum = due(magnitude[0]) + due(escape);
  for (int m = 1; m <= largest; ++m) sum += 2 * due(magnitude[m]);
  const uint64_t free = kFrequencySum - 2 * (largest + 1);
  const auto share = [&](uint64_t part) {
    return sum == 0 ? 0 : static_cast<int>((2 * free * part + sum) / (2 * sum));
  };

  Frequencies f;
  f.magnitude.assign(largest + 1, 1);
  f.escape = 1 + share(due(escape));
  uint64_t beyond = 0;
  int left = kFrequencySum - f.escape;
  for (int m = largest; m > 0; --m) {
    const int before = share(beyond);
    beyond += due(magnitude[m]);
    f.magnitude[m] = 1 + share(beyond) - before;
    left -= 2 * f.magnitude[m];
  }
  while (left < 1) {  // rounding took the last slots of a zero that is rare
    int* most = &*std::max_element(f.magnitude.begin() + 1, f.magnitude.end());
    --*most;
    left += 2;
  }
  f.magnitude[0] = left;
  return f;
}

Status Corrupt(std::string_view what) {
  return absl::DataLossError(absl::StrCat("the symbol statistics (cvxq.entropy) are corrupt: ",
                                          std::string(what), "; get the file again"));
}

}  // namespace

void SymbolCounts::Add(const ScaledCodes& codes) {
  std::vector<uint8_t> state(codes.columns);
  for (int64_t r = 0; r < codes.rows; ++r) {
    if (codes.TrellisStarts(r)) std::ranges::fill(state, uint8_t{0});
    const int16_t* integers = codes.integers.data() + r * codes.columns;
    for (int64_t c = 0; c < codes.columns; ++c) {
      const int k = integers[c];
      const int table = SymbolClass(codes.row_class[r], codes.column_class[c]) * kTrellisGrids +
                        kTrellis.grid[state[c]];
      ++counts_[table * kBins + std::min(std::abs(k), kBins - 1)];
      state[c] = static_cast<uint8_t>(kTrellis.Next(state[c], k));
    }
  }
}

void SymbolCounts::Add(const SymbolCounts& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
}

// The one description of the stream of steps, run forward by both directions.
class EntropyTables::Stream {
 public:
  explicit Stream(EntropyTables& tables) : t_(tables) {}

  // The step of magnitude m, given those of smaller ones and the class that came before (or null):
  // slopes of that class, less steep by an octave in four classes, and the slope so far.
  static int Guess(const Steps* before, const Steps& now, int m) {
    const std::vector<uint8_t>& steps = now.magnitude;
    if (m == 0) return before == nullptr ? kMaxStep - 16 : before->magnitude[0];
    const int own = m == 1 ? -16 : steps[m - 1] - steps[m - 2];
    int slope = own;
    if (before != nullptr && m < static_cast<int>(before->magnitude.size())) {
      const int other = before->magnitude[m] - before->magnitude[m - 1];
      slope = m <= 2 ? other : (7 * other + 8 * own) / 16;
    }
    return std::clamp(steps[m - 1] + slope, 0, kMaxStep);
  }
  static int GuessEscape(const Steps* before, const Steps& now) {
    return before == nullptr ? now.magnitude.back() : before->escape;
  }

  template <typename Coder>
  Status Run(Coder& coder) {
    const Steps* before[kTrellisGrids] = {};
    for (int c = 0; c < kSymbolClasses; ++c) {
      t_.own_[c] = CodeBit(coder, own_model_, t_.own_[c]) != 0;
      if (!t_.own_[c]) continue;
      for (int g = 0; g < kTrellisGrids; ++g) {
        CVXQ_RETURN_IF_ERROR(RunTable(coder, before[g], t_.steps_[c * kTrellisGrids + g]));
        before[g] = &t_.steps_[c * kTrellisGrids + g];
      }
    }
    return absl::OkStatus();
  }

 private:
  static int Code(RangeEncoder& coder, SignedModel& model, int value) {
    model.Encode(coder, value);
    return value;
  }
  static int Code(RangeDecoder& coder, SignedModel& model, int) { return model.Decode(coder); }
  static int CodeBit(RangeEncoder& coder, AdaptiveBit& model, int bit) {
    coder.EncodeBit(model, bit);
    return bit;
  }
  static int CodeBit(RangeDecoder& coder, AdaptiveBit& model, int) {
    return coder.DecodeBit(model);
  }

  template <typename Coder>
  Status RunTable(Coder& coder, const Steps* before, Steps& now) {
    const int guess = before == nullptr ? 0 : static_cast<int>(before->magnitude.size()) - 1;
    const int size = static_cast<int>(now.magnitude.size());
    const int largest = guess + Code(coder, largest_model_, size - 1 - guess);
    if (largest < 0 || largest > kMaxMagnitude) return Corrupt("an alphabet");
    now.magnitude.resize(largest + 1);
    for (int m = 0; m <= largest; ++m) {
      CVXQ_RETURN_IF_ERROR(RunStep(coder, models_[std::min(m, kModels - 1)], Guess(before, now, m),
                                   now.magnitude[m]));
    }
    return RunStep(coder, escape_model_, GuessEscape(before, now), now.escape);
  }

  template <typename Coder>
  Status RunStep(Coder& coder, SignedModel& model, int guess, uint8_t& step) {
    const int value = guess + Code(coder, model, step - guess);
    if (value < 0 || value > kMaxStep) return Corrupt("a frequency");
    step = static_cast<uint8_t>(value);
    return absl::OkStatus();
  }

  static constexpr int kModels = 4;  // for 0, 1, 2 and all larger magnitudes
  EntropyTables& t_;
  AdaptiveBit own_model_;
  SignedModel largest_model_, models_[kModels], escape_model_;
};

// Chooses what the stream tells: the fewest bits for the integers that were counted and for the
// stream itself. Sums and products of doubles in a fixed order.
class EntropyTables::Trainer {
 public:
  static Steps Choose(const Steps* before, std::span<const uint64_t> bins, double& bits) {
    uint64_t total = 0;
    for (const uint64_t count : bins) total += count;
    // A magnitude that is rarer than a third of a slot costs less as an escape.
    int largest = kMaxMagnitude;
    while (largest > 0 && (bins[largest] < 2 || bins[largest] * 3 * kFrequencySum < total)) {
      --largest;
    }
    uint64_t escapes = 0;
    for (size_t m = largest + 1; m < bins.size(); ++m) escapes += bins[m];

    Steps steps;
    for (int m = 0; m <= largest; ++m) {
      const int guess = Stream::Guess(before, steps, m);
      steps.magnitude.push_back(Best(guess, bins[m], total, m == 0 ? 1 : 2, bits));
    }
    steps.escape = Best(Stream::GuessEscape(before, steps), escapes, total, 1, bits);
    bits += StepBits(largest - (before == nullptr ? 0 : int(before->magnitude.size()) - 1));
    return steps;
  }

 private:
  // About what a difference costs in the stream.
  static double StepBits(int difference) {
    return difference == 0 ? 1 : 2 + std::min(std::abs(difference), 16);
  }
  // With `signs` symbols of a step's frequency q each, `count` of `total` integers in all cost
  // -count log2 q, and the slots, taken from all others, total * signs * q / ln 2.
  static uint8_t Best(int guess, uint64_t count, uint64_t total, int signs, double& bits) {
    constexpr double kLog2E = 1.4426950408889634;
    double least = 0, bits_of_best = 0;
    int best = -1;
    for (int step = 0; step <= kMaxStep; ++step) {
      const double q = static_cast<double>(StepWeight(step)) / (32768.0 * kFrequencySum);
      const double here = static_cast<double>(total) * (signs * q * kLog2E) -
                          static_cast<double>(count) * (step / 16.0) + StepBits(step - guess);
      if (best < 0 || here < least) {
        best = step;
        least = here;
        bits_of_best = StepBits(step - guess);
      }
    }
    bits += bits_of_best;
    return static_cast<uint8_t>(best);
  }
};

EntropyTables::EntropyTables() : own_(kSymbolClasses), steps_(kTables) {}

EntropyTables EntropyTables::Train(const SymbolCounts& counts) {
  EntropyTables tables;
  int last = -1;  // class with tables of its own
  for (int c = 0; c < kSymbolClasses; ++c) {
    double own = 0, inherited = 0;
    uint64_t total = 0;
    for (int g = 0; g < kTrellisGrids; ++g) {
      const std::span<const uint64_t> bins = counts.bins(c, g);
      for (const uint64_t count : bins) total += count;
      const Steps* before = last < 0 ? nullptr : &tables.steps_[last * kTrellisGrids + g];
      Steps& steps = tables.steps_[c * kTrellisGrids + g];
      steps = Trainer::Choose(before, bins, own);
      own += FrequenciesOf(steps.magnitude, steps.escape).Cost(bins);
      if (before == nullptr) continue;
      inherited += FrequenciesOf(before->magnitude, before->escape).Cost(bins);
    }
    if (total == 0 || (last >= 0 && inherited <= own)) continue;
    tables.own_[c] = true;
    last = c;
  }
  tables.Build();
  return tables;
}

std::vector<uint8_t> EntropyTables::Serialize() const {
  EntropyTables copy;  // visited, not changed
  copy.own_ = own_;
  copy.steps_ = steps_;
  RangeEncoder encoder;
  Stream(copy).Run(encoder).IgnoreError();  // writing cannot fail
  std::vector<uint8_t> bytes = encoder.Finish();
  const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(checksum >> (8 * i)));
  return bytes;
}

StatusOr<EntropyTables> EntropyTables::Parse(std::span<const uint8_t> bytes) {
  if (bytes.size() < kChecksumBytes) return Corrupt("too short");
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, body.data(), body.size()));
  for (int i = 0; i < 4; ++i) {
    if (bytes[body.size() + i] != static_cast<uint8_t>(checksum >> (8 * i))) {
      return Corrupt("the checksum does not match");
    }
  }
  EntropyTables tables;
  RangeDecoder decoder(body);
  CVXQ_RETURN_IF_ERROR(Stream(tables).Run(decoder));
  tables.Build();
  return tables;
}

void EntropyTables::Build() {
  largest_.resize(kTables);
  symbols_.resize(kTables * 256);
  entries_.resize(kTables * kFrequencySum);
  cost_.resize(kTables * (kMaxCode + 1));
  const Steps nothing{{kMaxStep}, 0};
  const auto first = std::find(own_.begin(), own_.end(), true) - own_.begin();
  int64_t from = first < kSymbolClasses ? first : -1;
  for (int c = 0; c < kSymbolClasses; ++c) {
    if (own_[c]) from = c;
    for (int g = 0; g < kTrellisGrids; ++g) {
      BuildTable(c * kTrellisGrids + g, from < 0 ? nothing : steps_[from * kTrellisGrids + g]);
    }
  }
}

void EntropyTables::BuildTable(int table, const Steps& steps) {
  const Frequencies f = FrequenciesOf(steps.magnitude, steps.escape);
  const int grid = table % kTrellisGrids;
  const int largest = largest_[table] = static_cast<int>(steps.magnitude.size()) - 1;
  uint32_t* entries = &entries_[table * kFrequencySum];
  int slot = 0;
  const auto place = [&](int symbol, int code, int parity, int frequency) {
    symbols_[table * 256 + static_cast<uint8_t>(symbol)] =
        static_cast<uint32_t>(slot << 16 | frequency);
    for (int i = 0; i < frequency; ++i) {
      entries[slot++] = static_cast<uint32_t>(i) |
                        static_cast<uint32_t>(static_cast<uint8_t>(code)) << kFrequencyBits |
                        static_cast<uint32_t>(parity) << 20 |
                        static_cast<uint32_t>(frequency) << 21;
    }
  };
  place(0, 0, 0, f.magnitude[0]);
  for (int m = 1; m <= largest; ++m) {
    const int code = 2 * m - grid;
    place(m, code, m & 1, f.magnitude[m]);
    place(-m, -code, m & 1, f.magnitude[m]);
  }
  place(kEscape, kEscape, 0, f.escape);

  float* cost = &cost_[table * (kMaxCode + 1)];
  for (int m = 0; m <= kMaxCode; ++m) {
    cost[m] = m > largest ? EscapeCost(table, m)
                          : static_cast<float>(kFrequencyBits - std::log2(f.magnitude[m]));
  }
}

float EntropyTables::EscapeCost(int table, int magnitude) const {
  const int frequency = static_cast<int>(symbols(table)[kEscape] & 0xffff);
  return static_cast<float>(kFrequencyBits - std::log2(frequency) +
                            8 * EscapeBytes(magnitude - largest_[table] - 1));
}

}  // namespace cvxq
