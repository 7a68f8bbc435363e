// The kernels of scale_search.h on 16 lanes, one for each sub-block (scale_search_lanes.h). The
// including file is compiled for one instruction set. Nothing is contracted or reassociated, so
// every file gives the same bits.
#include "formats/scale_search_lanes.h"

namespace cvxq {
namespace {

// Rules of rounding x / step to a level.
struct Uniform {
  float lowest, highest;
  CVXQ_INLINE V operator()(V t) const {
    return Nearest(Least(Most(t, Splat(lowest)), Splat(highest)));
  }
};
struct Iq4 {
  CVXQ_INLINE V operator()(V t) const {
    V level = Splat(-127);
#define CVXQ_LEVEL(edge, gap) level = AddWhere(Less(Splat(edge), t), level, Splat(gap))
    CVXQ_LEVEL(-115.5f, 23);
    CVXQ_LEVEL(-93.5f, 21);
    CVXQ_LEVEL(-74, 18);
    CVXQ_LEVEL(-57, 16);
    CVXQ_LEVEL(-42, 14);
    CVXQ_LEVEL(-28.5f, 13);
    CVXQ_LEVEL(-16, 12);
    CVXQ_LEVEL(-4.5f, 11);
    CVXQ_LEVEL(7, 12);
    CVXQ_LEVEL(19, 12);
    CVXQ_LEVEL(31.5f, 13);
    CVXQ_LEVEL(45.5f, 15);
    CVXQ_LEVEL(61, 16);
    CVXQ_LEVEL(79, 20);
    CVXQ_LEVEL(101, 24);
#undef CVXQ_LEVEL
    return level;
  }
};
struct E2M1 {
  CVXQ_INLINE V operator()(V t) const {
    const V size = Size(t);
    const V octave = AsFloats(AsInts(Most(size, Splat(2))) & 0x7f800000);  // of step 1, 2 or 4
    const V magic = octave * 0x1.8p22f;
    return WithSign(Least((size + magic) - magic, Splat(12)), t);
  }
};

// The columns of the lanes' sub-blocks: x[i], w[i] hold column i of each.
struct Columns {
  const V* x;
  const V* w;
  int64_t n;
};

// Lanes' rows [lanes, n] into columns; missing lanes are `fill`.
CVXQ_INLINE void Transpose(const float* rows, int lanes, int64_t n, float fill, V* columns) {
  float* to = reinterpret_cast<float*>(columns);
  for (int lane = 0; lane < lanes; ++lane) {
    for (int64_t i = 0; i < n; ++i) to[i * kLanes + lane] = rows[lane * n + i];
  }
  for (int lane = lanes; lane < kLanes; ++lane) {
    for (int64_t i = 0; i < n; ++i) to[i * kLanes + lane] = fill;
  }
}

// Sums over a sub-block for given levels q: of w q, w q^2, w q x.
struct Sums {
  V wq, wqq, wqx;
};
struct Totals {
  V w, wx, wxx;
};
struct Grid {
  V step, offset;
};

template <bool kOffset, typename Round>
CVXQ_INLINE Sums SumUp(const Columns& c, const Round& round, V inverse, V shift) {
  Sums s{};
  for (int64_t i = 0; i < c.n; ++i) {
    const V x = c.x[i];
    const V q = kOffset ? round(x * inverse + shift) : round(x * inverse);
    const V wq = c.w[i] * q;
    if (kOffset) s.wq = s.wq + wq;
    s.wqq = s.wqq + wq * q;
    s.wqx = s.wqx + wq * x;
  }
  return s;
}

template <bool kOffset, typename Round>
CVXQ_INLINE V ErrorOf(const Columns& c, const Round& round, const Grid& g) {
  const V inverse = Inverse(g.step);
  V error{};
  for (int64_t i = 0; i < c.n; ++i) {
    const V x = kOffset ? c.x[i] - g.offset : c.x[i];
    const V difference = x - g.step * round(x * inverse);
    error = error + c.w[i] * (difference * difference);
  }
  return error;
}

CVXQ_INLINE Totals TotalsOf(const Columns& c) {
  Totals t{};
  for (int64_t i = 0; i < c.n; ++i) {
    const V wx = c.w[i] * c.x[i];
    t.w = t.w + c.w[i];
    t.wx = t.wx + wx;
    t.wxx = t.wxx + wx * c.x[i];
  }
  return t;
}

// The best grid for given levels.
CVXQ_INLINE Grid Solve(const Sums& s) { return {Divide(s.wqx, s.wqq), V{}}; }
CVXQ_INLINE Grid SolveWithOffset(const Totals& t, const Sums& s, bool negative) {
  const V determinant = t.w * s.wqq - s.wq * s.wq;
  const I proper = Less(t.w * s.wqq * 1e-6f, determinant);
  V step = (t.w * s.wqx - s.wq * t.wx) / determinant;
  V offset = (s.wqq * t.wx - s.wq * s.wqx) / determinant;
  step = Select(proper, step, V{});
  offset = Select(proper, offset, t.wx / t.w);
  if (negative) {
    const I beyond = Less(V{}, offset);
    step = Select(beyond, Divide(s.wqx, s.wqq), step);
    offset = Select(beyond, V{}, offset);
  }
  return {Most(step, V{}), offset};
}
// The error that is left: of any grid with these levels.
CVXQ_INLINE V Left(const Totals& t, const Sums& s, const Grid& g) {
  return t.wxx + g.step * (g.step * s.wqq - s.wqx * 2.0f) +
         g.offset * (g.offset * t.w + (g.step * s.wq - t.wx) * 2.0f);
}

// Step 1.
template <bool kOffset, typename Round>
CVXQ_INLINE Grid SearchAlone(const ScaleSearch& search, const Columns& c, const Round& round,
                             const Totals& t) {
  V low = c.x[0], high = c.x[0];
  for (int64_t i = 1; i < c.n; ++i) {
    low = Least(low, c.x[i]);
    high = Most(high, c.x[i]);
  }
  const bool negative = search.most_offset > 0;
  if (kOffset && negative) low = Least(low, V{});
  const V range = kOffset ? high - low : Most(high, -low);
  const V unit = Select(Less(Splat(0x1p-100f), range), Splat(1) / range, V{});
  Grid best{};
  V best_error = Splat(0x1p126f);
  const auto consider = [&](V inverse, V shift) __attribute__((always_inline)) {
    const Sums s = SumUp<kOffset>(c, round, inverse, shift);
    const Grid g = kOffset ? SolveWithOffset(t, s, negative) : Solve(s);
    const V error = Left(t, s, g);
    const I better = Less(error, best_error);
    best.step = Select(better, g.step, best.step);
    best.offset = Select(better, g.offset, best.offset);
    best_error = Select(better, error, best_error);
  };
  for (int i = 0; i < search.trial_count; ++i) {
    const V inverse = unit * search.trials[i];
    consider(inverse, -low * inverse);
  }
  for (int i = 0; i < search.polish; ++i) {
    const V inverse = Inverse(best.step);
    consider(inverse, -best.offset * inverse);
  }
  return best;
}

// A block on its way: d, m (the same in all lanes of a block), s and o as floats.
struct Block {
  V d, m, s, o, error;
};

CVXQ_INLINE void Keep(I better, const Block& from, Block& to) {
  to.d = Select(better, from.d, to.d);
  to.m = Select(better, from.m, to.m);
  to.s = Select(better, from.s, to.s);
  to.o = Select(better, from.o, to.o);
  to.error = Select(better, from.error, to.error);
}

// s and o of each sub-block: the best of the neighbours of (s, o), where b.d and b.m are given.
template <bool kOffset, typename Round>
CVXQ_INLINE void Neighbours(const ScaleSearch& search, const Columns& c, const Round& round,
                            Block& b) {
  const V s = b.s, o = b.o;
  b.error = Splat(0x1p126f);
  for (int i = -1; i <= 1; ++i) {
    for (int j = kOffset ? -1 : 0; j <= (kOffset ? 1 : 0); ++j) {
      if (i * j < 0) continue;  // more of the one calls for more of the other
      Block near = b;
      near.s = Least(Most(s + static_cast<float>(i), Splat(static_cast<float>(search.least))),
                     Splat(static_cast<float>(search.most)));
      near.o = Least(Most(o + static_cast<float>(j), V{}),
                     Splat(static_cast<float>(search.most_offset)));
      near.error = ErrorOf<kOffset>(c, round, Grid{near.d * near.s, -(near.m * near.o)});
      Keep(Less(near.error, b.error), near, b);
    }
  }
}

// d and m for given levels, s and o.
template <bool kOffset, typename Round>
CVXQ_INLINE void SolveBlock(const ScaleSearch& search, const Columns& c, const Round& round,
                            const Totals& t, Block& b) {
  const V step = b.d * b.s, offset = -(b.m * b.o);
  const V inverse = Inverse(step);
  const Sums sums = SumUp<kOffset>(c, round, inverse, -offset * inverse);
  const V ss = SumOverBlock(b.s * b.s * sums.wqq, search.subs);
  const V sx = SumOverBlock(b.s * sums.wqx, search.subs);
  if (!kOffset) {
    b.d = Select(Less(V{}, ss), sx / ss, b.d);
    return;
  }
  const V so = SumOverBlock(b.s * b.o * sums.wq, search.subs);
  const V oo = SumOverBlock(b.o * b.o * t.w, search.subs);
  const V ox = SumOverBlock(b.o * t.wx, search.subs);
  const V determinant = ss * oo - so * so;
  const I proper = Less(ss * oo * 1e-6f, determinant);
  b.d = Select(proper, (sx * oo - so * ox) / determinant, b.d);
  b.m = Select(proper, (so * sx - ss * ox) / determinant, b.m);
}

// Steps 2 and 3. `unit`: what one of x stands for.
template <bool kOffset, typename Round>
CVXQ_INLINE Block SearchBlock(const ScaleSearch& search, const Columns& c, const Round& round,
                              const Totals& t, const Grid& alone, V unit) {
  const V inverse_unit = Splat(1) / unit;
  const auto half = [&](V value) __attribute__((always_inline)) {
    return Half(value * unit) * inverse_unit;
  };
  if (search.least == search.most) {  // nothing but halves
    return {half(alone.step), half(alone.offset), Splat(1), Splat(-1), V{}};
  }
  const V high = MostOverBlock(alone.step, search.subs);
  const V low = MostOverBlock(-alone.step, search.subs);
  const V largest = Select(Less(high, low), -low, high);
  const V deepest = MostOverBlock(-alone.offset, search.subs);
  Block best{};
  best.error = Splat(0x1p126f);
  for (int start = 0; start < search.start_count; ++start) {
    Block b{};
    b.d = largest * (1 / static_cast<float>(search.starts[start]));
    b.m = kOffset ? deepest * (1 / static_cast<float>(search.most_offset)) : V{};
    for (int round_index = 0; round_index <= search.rounds; ++round_index) {
      if (round_index > 0) SolveBlock<kOffset>(search, c, round, t, b);
      b.d = half(b.d);
      b.m = half(b.m);
      if (round_index == 0) {
        // The nearest within 2^20, where Nearest is exact; Neighbours keeps the range.
        b.s = Nearest(Least(Most(Divide(alone.step, b.d), Splat(-0x1p20f)), Splat(0x1p20f)));
        b.o = Nearest(Least(Most(Divide(-alone.offset, b.m), Splat(-0x1p20f)), Splat(0x1p20f)));
        b.s = Least(Most(b.s, Splat(static_cast<float>(search.least))),
                    Splat(static_cast<float>(search.most)));
        b.o = Least(b.o, Splat(static_cast<float>(search.most_offset)));
      }
      Neighbours<kOffset>(search, c, round, b);
      Block whole = b;
      whole.error = SumOverBlock(b.error, search.subs);
      Keep(Less(whole.error, best.error), whole, best);
    }
  }
  return best;
}

template <bool kOffset, typename Round>
void SearchLanes(const ScaleSearch& search, const Columns& c, const Round& round, V unit,
                 int blocks, BlockScales* scales) {
  const Totals t = TotalsOf(c);
  const Grid alone = SearchAlone<kOffset>(search, c, round, t);
  const Block b = SearchBlock<kOffset>(search, c, round, t, alone, unit);
  const V values[] = {b.d * unit, b.m * unit, b.s, b.o};
  const float* d = reinterpret_cast<const float*>(values);  // 16 lanes each
  for (int block = 0; block < blocks; ++block) {
    const int lane = block * search.subs;
    scales[block].d = d[lane];
    scales[block].m = d[kLanes + lane];
    for (int i = 0; i < search.subs; ++i) {
      scales[block].s[i] = static_cast<int16_t>(d[2 * kLanes + lane + i]);
      scales[block].o[i] = static_cast<int16_t>(d[3 * kLanes + lane + i]);
    }
  }
}

constexpr int64_t kMostSub = 256;

// The lanes' columns, all of a block scaled by powers of two to about 1, so that no square over- or
// underflows.
struct Scaled {
  V x[kMostSub], w[kMostSub];
  V unit, inverse_unit;  // what one of x stands for

  CVXQ_INLINE Scaled(const float* rows, const float* weight, int lanes, int64_t n, int subs) {
    Transpose(rows, lanes, n, 0, x);
    Transpose(weight, lanes, n, 1, w);
    V size{}, heaviest{};
    for (int64_t i = 0; i < n; ++i) {
      size = Most(size, Size(x[i]));
      heaviest = Most(heaviest, w[i]);
    }
    size = MostOverBlock(size, subs);
    heaviest = MostOverBlock(heaviest, subs);
    const auto power = [](V v) __attribute__((always_inline)) {
      return AsFloats(AsInts(Least(Most(v, Splat(0x1p-100f)), Splat(0x1p120f))) & 0x7f800000);
    };
    unit = power(size);
    inverse_unit = Splat(1) / unit;
    const V inverse_weight = Splat(1) / power(heaviest);
    const I is_zero = Less(size, Splat(0x1p-100f)), weightless = Less(heaviest, Splat(0x1p-100f));
    for (int64_t i = 0; i < n; ++i) {
      x[i] = Select(is_zero, V{}, x[i] * inverse_unit);
      // A little for every column, so that sub-blocks without weight have scales, too.
      w[i] = Select(weightless, Splat(1), w[i] * inverse_weight) + 0x1p-20f;
    }
  }
};

void Search(const ScaleSearch& search, const float* x, const float* weight, int blocks,
            BlockScales* scales) {
  const Scaled s(x, weight, blocks * search.subs, search.sub, search.subs);
  const Columns c{s.x, s.w, search.sub};
  const Uniform uniform{static_cast<float>(search.lowest), static_cast<float>(search.highest)};
  if (search.has_offset) {
    SearchLanes<true>(search, c, uniform, s.unit, blocks, scales);
  } else if (search.levels == LevelKind::kUniform) {
    SearchLanes<false>(search, c, uniform, s.unit, blocks, scales);
  } else {
    SearchLanes<false>(search, c, Iq4{}, s.unit, blocks, scales);
  }
}

void PickStep(int64_t sub, const float* x, const float* weight, int lanes, const float* steps,
              int trials, int* best) {
  const Scaled s(x, weight, lanes, sub, 1);
  const Columns c{s.x, s.w, sub};
  V best_error = Splat(0x1p126f), best_trial{};
  for (int trial = 0; trial < trials; ++trial) {
    const V step = Load<V>(steps + trial * kLanes) * s.inverse_unit;
    const V error = ErrorOf<false>(c, E2M1{}, Grid{step, V{}});
    const I better = Less(error, best_error);
    best_error = Select(better, error, best_error);
    best_trial = Select(better, Splat(static_cast<float>(trial)), best_trial);
  }
  const float* found = reinterpret_cast<const float*>(&best_trial);
  for (int lane = 0; lane < kLanes; ++lane) best[lane] = static_cast<int>(found[lane]);
}

// The codes of a register of values of a grid.
CVXQ_INLINE IntRegister CodesOf(FloatRegister x, float step, float offset, const float* levels,
                                const float* edges, int level_count) {
  const float inverse = step != 0 ? 1 / step : 0;
  const FloatRegister t = (x - offset) * inverse;
  if (edges == nullptr) {
    const FloatRegister lowest = levels[0] - FloatRegister{},
                        highest = levels[level_count - 1] - FloatRegister{};
    return __builtin_convertvector(Nearest(Least(Most(t, lowest), highest)) - lowest, IntRegister);
  }
  IntRegister code{};
  for (int k = 0; k + 1 < level_count; ++k) code -= t > edges[k];
  return code;
}

void NearestCodes(const float* levels, const float* edges, int level_count, int64_t sub,
                  const float* x, const float* step, const float* offset, int64_t subs,
                  uint8_t* codes) {
  typedef uint8_t Bytes __attribute__((vector_size(kRegister)));
  for (int64_t j = 0; j < subs; ++j) {
    const float o = offset != nullptr ? offset[j] : 0;
    int64_t i = 0;
    for (; i + kRegister <= sub; i += kRegister) {
      const FloatRegister values = Load<FloatRegister>(x + j * sub + i);
      const IntRegister code = CodesOf(values, step[j], o, levels, edges, level_count);
      const Bytes bytes = __builtin_convertvector(code, Bytes);
      __builtin_memcpy(codes + j * sub + i, &bytes, sizeof(Bytes));
    }
    if (i == sub) continue;
    FloatRegister values{};
    for (int64_t k = i; k < sub; ++k) values[k - i] = x[j * sub + k];
    const IntRegister code = CodesOf(values, step[j], o, levels, edges, level_count);
    for (int64_t k = i; k < sub; ++k) codes[j * sub + k] = static_cast<uint8_t>(code[k - i]);
  }
}

}  // namespace
}  // namespace cvxq
