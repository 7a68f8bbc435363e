// Trellis-coded quantisation: the integers of a column are quantised by two interleaved grids, and
// the parities of the integers before decide which one is in force. The pair covers the line twice
// as densely as either alone, at the rate of one (Marcellin and Fischer 1990; with entropy-coded
// integers, Fischer and Wang 1992).
//
// Down a column, from state 0 in the first row (and wherever ScaledCodes::trellis_rows has it
// start anew): the integer k stands for the code
//   2 k - sign(k) * grid[state]          on a grid of half the step,
// and the next state is next[state][k & 1].
#ifndef CVXQ_QUANT_TRELLIS_H_
#define CVXQ_QUANT_TRELLIS_H_

#include <array>
#include <cstdint>

namespace cvxq {

inline constexpr int kTrellisStates = 8, kTrellisGrids = 2;

struct Trellis {
  std::array<uint8_t, kTrellisStates> grid;                 // 0: even codes, 1: odd ones and 0
  std::array<std::array<uint8_t, 2>, kTrellisStates> next;  // [state][parity of k]

  int Code(int state, int k) const { return 2 * k - grid[state] * ((k > 0) - (k < 0)); }
  int Next(int state, int k) const { return next[state][k & 1]; }
};

inline constexpr Trellis kTrellis{
    {0, 0, 0, 0, 1, 1, 1, 1}, {{{0, 4}, {4, 0}, {5, 1}, {1, 5}, {6, 2}, {2, 6}, {3, 7}, {7, 3}}}};

}  // namespace cvxq

#endif  // CVXQ_QUANT_TRELLIS_H_
