#include "pipeline/type_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

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

// A change of the distortion below which it is more than rounding.
double Rounding(const TypeChoice& choice) { return -1e-12 * std::abs(choice.distortion); }

// The best change of one or two items that fits into `gap` more bytes; false where none helps.
bool Exchange(const std::vector<TypeOptions>& items, int64_t gap, TypeChoice& choice) {
  const std::vector<Move> moves = Moves(items, choice);
  double least = Rounding(choice);
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

// The greatest common divisor of what options differ by.
int64_t ByteUnit(const std::vector<TypeOptions>& items) {
  int64_t unit = 0;
  for (const TypeOptions& options : items) {
    for (const TypeOption& option : options) {
      unit = std::gcd(unit, std::abs(option.bytes - options[0].bytes));
    }
  }
  return std::max<int64_t>(unit, 1);
}

// Of all choices that fit the one of least distortion, with what each option takes beyond the
// item's smallest rounded up to a unit that cuts the budget in at most kUnits. The smallest fit.
TypeChoice ByUnits(const std::vector<TypeOptions>& items, int64_t budget) {
  constexpr int64_t kUnits = int64_t{1} << 18;
  TypeChoice choice;
  std::vector<int64_t> least;
  int64_t room = budget, useful = 0;
  for (const TypeOptions& options : items) {
    const auto [low, high] = std::minmax_element(
        options.begin(), options.end(),
        [](const TypeOption& a, const TypeOption& b) { return a.bytes < b.bytes; });
    least.push_back(low->bytes);
    room -= low->bytes;
    useful += high->bytes - low->bytes;
  }
  room = std::min(room, useful);
  const int64_t exact = ByteUnit(items);
  const int64_t u = room / exact <= kUnits ? exact : room / kUnits + 1, units = room / u;
  std::vector<double> best(units + 1, 0.0), next(units + 1);  // by units that may be used
  std::vector<uint8_t> taken(items.size() * (units + 1));
  for (size_t item = 0; item < items.size(); ++item) {
    std::fill(next.begin(), next.end(), kInfinity);
    uint8_t* of_item = &taken[item * (units + 1)];
    for (size_t option = 0; option < items[item].size(); ++option) {
      const int64_t takes = (items[item][option].bytes - least[item] + u - 1) / u;
      const double distortion = items[item][option].distortion;
      for (int64_t at = takes; at <= units; ++at) {
        const double sum = best[at - takes] + distortion;
        if (sum >= next[at]) continue;
        next[at] = sum;
        of_item[at] = static_cast<uint8_t>(option);
      }
    }
    std::swap(best, next);
  }
  choice.option.resize(items.size());
  int64_t at = units;
  for (size_t item = items.size(); item-- > 0;) {
    const size_t option = taken[item * (units + 1) + at];
    choice.option[item] = option;
    choice.bytes += items[item][option].bytes;
    choice.distortion += items[item][option].distortion;
    at -= (items[item][option].bytes - least[item] + u - 1) / u;
  }
  return choice;
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
  TypeChoice by_units = ByUnits(items, budget);
  by_units.log2_lambda = choice.log2_lambda;
  if (by_units.distortion < choice.distortion) choice = std::move(by_units);
  while (Exchange(items, budget - choice.bytes, choice)) {
  }
  return choice;
}

TypeSteps StepsFrom(const std::vector<TypeOptions>& items, const TypeChoice& choice) {
  TypeSteps steps;
  for (const Move& move : Moves(items, choice)) {
    if (move.bytes <= 0 || move.distortion >= Rounding(choice)) continue;
    if (steps.least == 0) steps.least = move.bytes;  // moves come by their bytes
    steps.most = move.bytes;
  }
  return steps;
}

}  // namespace cvxq
