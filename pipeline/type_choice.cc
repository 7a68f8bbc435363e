#include "pipeline/type_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace cvxq {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kSteps = 200;  // of the bisection; it ends when nothing lies between

size_t BestOption(const TypeOptions& options, double lambda) {
  size_t best = 0;
  double least = kInfinity;
  for (size_t i = 0; i < options.size(); ++i) {
    const double cost = options[i].distortion + lambda * static_cast<double>(options[i].bytes);
    const bool same = cost == least && options[i].bytes < options[best].bytes;
    if (!(cost < least || same)) continue;
    least = cost;
    best = i;
  }
  return best;
}

TypeChoice At(const std::vector<TypeOptions>& items, double log2_lambda) {
  TypeChoice choice{.log2_lambda = log2_lambda};
  const double lambda = std::exp2(log2_lambda);
  for (const TypeOptions& options : items) {
    const size_t best = BestOption(options, lambda);
    choice.option.push_back(best);
    choice.bytes += options[best].bytes;
    choice.distortion += options[best].distortion;
  }
  return choice;
}

// Another option for one item, by what it changes.
struct Move {
  size_t item = 0, option = 0;
  int64_t bytes = 0;
  double distortion = 0;
};

std::vector<Move> Moves(const std::vector<TypeOptions>& items, const TypeChoice& choice) {
  std::vector<Move> moves;
  for (size_t item = 0; item < items.size(); ++item) {
    const TypeOption& now = items[item][choice.option[item]];
    for (size_t option = 0; option < items[item].size(); ++option) {
      const TypeOption& other = items[item][option];
      if (option == choice.option[item]) continue;
      moves.push_back({item, option, other.bytes - now.bytes, other.distortion - now.distortion});
    }
  }
  std::stable_sort(moves.begin(), moves.end(),
                   [](const Move& a, const Move& b) { return a.bytes < b.bytes; });
  return moves;
}

// The two best moves of different items among the first few of the list.
struct BestTwo {
  std::array<const Move*, 2> best{};

  void Add(const Move& move) {
    if (best[0] == nullptr || move.distortion < best[0]->distortion) {
      if (best[0] != nullptr && best[0]->item != move.item) best[1] = best[0];
      best[0] = &move;
    } else if (move.item != best[0]->item &&
               (best[1] == nullptr || move.distortion < best[1]->distortion)) {
      best[1] = &move;
    }
  }
  const Move* Without(size_t item) const {
    return best[0] != nullptr && best[0]->item == item ? best[1] : best[0];
  }
};

void Apply(const Move& move, TypeChoice& choice) {
  choice.option[move.item] = move.option;
  choice.bytes += move.bytes;
  choice.distortion += move.distortion;
}

// The best change of one or two items that fits into `gap` more bytes; false where none helps.
bool Exchange(const std::vector<TypeOptions>& items, int64_t gap, TypeChoice& choice) {
  const std::vector<Move> moves = Moves(items, choice);
  double least = -1e-12 * std::abs(choice.distortion);  // less is rounding
  const Move *first = nullptr, *second = nullptr;
  // From the largest first move down, more and more second moves fit beside it.
  BestTwo fitting;
  size_t next = 0;
  for (size_t i = moves.size(); i-- > 0;) {
    const Move& move = moves[i];
    if (move.bytes <= gap && move.distortion < least) {
      least = move.distortion;
      first = &move;
      second = nullptr;
    }
    while (next < moves.size() && moves[next].bytes <= gap - move.bytes) fitting.Add(moves[next++]);
    const Move* partner = fitting.Without(move.item);
    if (partner == nullptr || move.distortion + partner->distortion >= least) continue;
    least = move.distortion + partner->distortion;
    first = &move;
    second = partner;
  }
  if (first == nullptr) return false;
  Apply(*first, choice);
  if (second != nullptr) Apply(*second, choice);
  return true;
}

}  // namespace

StatusOr<TypeChoice> ChooseTypes(const std::vector<TypeOptions>& items, int64_t budget) {
  constexpr double kHigh = 300, kLow = -300;  // nothing but bytes, nothing but distortion
  TypeChoice choice = At(items, kHigh);
  if (choice.bytes > budget) {
    return absl::InvalidArgumentError(absl::StrCat("the smallest types take ", choice.bytes,
                                                   " bytes, more than the ", budget,
                                                   " that there are for them"));
  }
  double high = kHigh, low = kLow;
  for (int step = 0; step < kSteps && high - low > 1e-9; ++step) {
    const double middle = (high + low) / 2;
    TypeChoice found = At(items, middle);
    if (found.bytes > budget) {
      low = middle;
    } else {
      high = middle;
      choice = std::move(found);
    }
  }
  while (Exchange(items, budget - choice.bytes, choice)) {
  }
  return choice;
}

}  // namespace cvxq
