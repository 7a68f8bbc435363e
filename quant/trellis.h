// Trellis-coded quantisation: the integers of a column are quantised by two interleaved grids, and
// the parities of the integers before decide which one is in force. The pair covers the line twice
// as densely as either alone, at the rate of one (Marcellin and Fischer 1990; with entropy-coded
// integers, Fischer and Wang 1992).
//
// From the first row of a column down, starting in state 0: the integer k stands for the code
//   2 k - sign(k) * grid[state]          on a grid of half the step,
// and the next state is next[state][k & 1]. With one state there is no trellis: the code is k.
#ifndef CVXQ_QUANT_TRELLIS_H_
#define CVXQ_QUANT_TRELLIS_H_

#include <array>
#include <cstdint>

namespace cvxq {

inline constexpr int kMaxTrellisStates = 8;

struct Trellis {
  int states = 1;  // 1, 4 or 8
  std::array<uint8_t, kMaxTrellisStates> grid{};                 // 0: even codes, 1: odd ones and 0
  std::array<std::array<uint8_t, 2>, kMaxTrellisStates> next{};  // [state][parity of k]

  int Code(int state, int k) const {
    if (states == 1) return k;
    return 2 * k - (grid[state] != 0 ? (k > 0) - (k < 0) : 0);
  }
  int Next(int state, int k) const { return next[state][k & 1]; }
};

// The trellis of 1, 4 or 8 states.
inline const Trellis& TrellisOf(int states) {
  static constexpr Trellis kOne{1, {0}, {{{0, 0}}}};
  static constexpr Trellis kFour{4, {0, 0, 1, 1}, {{{0, 2}, {2, 0}, {1, 3}, {3, 1}}}};
  static constexpr Trellis kEight{
      8,
      {0, 0, 0, 0, 1, 1, 1, 1},
      {{{0, 4}, {4, 0}, {5, 1}, {1, 5}, {6, 2}, {2, 6}, {3, 7}, {7, 3}}}};
  return states == 8 ? kEight : states == 4 ? kFour : kOne;
}

}  // namespace cvxq

#endif  // CVXQ_QUANT_TRELLIS_H_
