#include "formats/int_sums.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr float kRounder = 0x1.8p23f;  // adding it leaves no room for a fraction

// The code of a value in steps: to the nearest, ties to even.
inline __attribute__((always_inline)) float CodeOf(float value, float low, float high) {
  value = value < low ? low : value;
  value = value > high ? high : value;
  return (value + kRounder) - kRounder;
}

// op of the first lanes and as many behind them.
template <int kHalf, typename Op>
inline __attribute__((always_inline)) void FoldHalf(IntLanes& lanes, Op op) {
  for (int t = 0; t < kHalf; ++t) lanes.v[t] = op(lanes.v[t], lanes.v[t + kHalf]);
}
// op over all lanes, for an op whose order does not matter.
template <typename Op>
inline __attribute__((always_inline)) float Fold(const IntLanes& all, Op op) {
  static_assert(kIntLanes == 16);
  IntLanes lanes = all;
  FoldHalf<8>(lanes, op);
  FoldHalf<4>(lanes, op);
  FoldHalf<2>(lanes, op);
  FoldHalf<1>(lanes, op);
  return lanes.v[0];
}
inline __attribute__((always_inline)) float LeastOf(const IntLanes& lanes) {
  return Fold(
      lanes, [](float a, float b) __attribute__((always_inline)) { return b < a ? b : a; });
}
inline __attribute__((always_inline)) float MostOf(const IntLanes& lanes) {
  return Fold(
      lanes, [](float a, float b) __attribute__((always_inline)) { return b > a ? b : a; });
}

constexpr IntLanes kPlaces = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

inline __attribute__((always_inline)) int FirstEqual(const IntLanes& lanes, float value) {
  IntLanes place;
  for (int t = 0; t < kIntLanes; ++t) {
    const float last = kPlaces.v[kIntLanes - 1], here = kPlaces.v[t];
    place.v[t] = lanes.v[t] == value ? here : last;
  }
  return static_cast<int>(LeastOf(place));
}

struct LaneMoments {
  IntLanes least, most, weight, first, second;
};

CVXQ_CPU_CLONES void ScaleLanes(const float* __restrict x, const float* __restrict weight,
                                int64_t n, float by, float weigh, float* __restrict to,
                                float* __restrict to_weight, LaneMoments* moments) {
  IntLanes least, most, total, mean, square;
  const float add = weigh == 0 ? 1.0f : 0.0f;
  for (int64_t c = 0; c < n; c += kIntLanes) {
    for (int t = 0; t < kIntLanes; ++t) {
      const float v = x[c + t] * by, w = weight[c + t] * weigh + add;
      to[c + t] = v;
      to_weight[c + t] = w;
      least.v[t] = v < least.v[t] ? v : least.v[t];
      most.v[t] = v > most.v[t] ? v : most.v[t];
      total.v[t] += w;
      mean.v[t] += w * v;
      square.v[t] += (w * v) * v;
    }
  }
  *moments = {least, most, total, mean, square};
}

struct CodeSums {
  IntLanes q, qq, xq;  // of weight code, weight code^2, weight x code
};

CVXQ_CPU_CLONES void SumCodes(const float* x, const float* weight, int64_t n, float low, float high,
                              const IntLanes& inverse, const IntLanes& zero, CodeSums* sums) {
  IntLanes q, qq, xq;
  for (int64_t c = 0; c < n; ++c) {
    const float w = weight[c], wx = w * x[c];
    for (int t = 0; t < kIntLanes; ++t) {
      const float code = CodeOf(x[c] * inverse.v[t] + zero.v[t], low, high);
      const float weighted = w * code;
      q.v[t] += weighted;
      qq.v[t] += weighted * code;
      xq.v[t] += wx * code;
    }
  }
  *sums = {q, qq, xq};
}

}  // namespace

CVXQ_CPU_CLONES void LargestOf(const float* x, const float* weight, int64_t n, float* magnitude,
                               float* heaviest) {
  IntLanes m, h;
  const int64_t whole = n / kIntLanes * kIntLanes;
  for (int64_t c = 0; c < whole; c += kIntLanes) {
    for (int t = 0; t < kIntLanes; ++t) {
      const float a = std::fabs(x[c + t]), w = weight[c + t];
      m.v[t] = a > m.v[t] ? a : m.v[t];
      h.v[t] = w > h.v[t] ? w : h.v[t];
    }
  }
  for (int64_t c = whole; c < n; ++c) {
    m.v[0] = std::max(m.v[0], std::fabs(x[c]));
    h.v[0] = std::max(h.v[0], weight[c]);
  }
  *magnitude = MostOf(m);
  *heaviest = MostOf(h);
}

CVXQ_CPU_CLONES int IndexOfLeast(const IntLanes& lanes) {
  return FirstEqual(lanes, LeastOf(lanes));
}
CVXQ_CPU_CLONES int IndexOfMost(const IntLanes& lanes) { return FirstEqual(lanes, MostOf(lanes)); }

CVXQ_CPU_CLONES IntMoments ScaleBlock(const float* x, const float* weight, int64_t n, float by,
                                      float weigh, float* to, float* to_weight) {
  LaneMoments lanes;
  const int64_t whole = n / kIntLanes * kIntLanes;
  ScaleLanes(x, weight, whole, by, weigh, to, to_weight, &lanes);
  IntMoments m{.least = LeastOf(lanes.least), .most = MostOf(lanes.most)};
  for (int t = 0; t < kIntLanes; ++t) {
    m.weight += lanes.weight.v[t];
    m.first += lanes.first.v[t];
    m.second += lanes.second.v[t];
  }
  for (int64_t c = whole; c < n; ++c) {
    const float v = to[c] = x[c] * by;
    const float w = to_weight[c] = weigh == 0 ? 1.0f : weight[c] * weigh;
    m.least = std::min(m.least, v);
    m.most = std::max(m.most, v);
    m.weight += w;
    m.first += w * v;
    m.second += (w * v) * v;
  }
  return m;
}

CVXQ_CPU_CLONES void SolveSymmetric(const float* x, const float* weight, int64_t n, float low,
                                    float high, const IntLanes* inverse, IntLanes* scale,
                                    IntLanes* gain) {
  const IntLanes one = inverse[0], other = inverse[1];
  IntLanes qq, xq, other_qq, other_xq;
  for (int64_t c = 0; c < n; ++c) {
    const float w = weight[c], wx = w * x[c];
    for (int t = 0; t < kIntLanes; ++t) {
      const float code = CodeOf(x[c] * one.v[t], low, high);
      qq.v[t] += (w * code) * code;
      xq.v[t] += wx * code;
    }
    for (int t = 0; t < kIntLanes; ++t) {
      const float code = CodeOf(x[c] * other.v[t], low, high);
      other_qq.v[t] += (w * code) * code;
      other_xq.v[t] += wx * code;
    }
  }
  const auto solve = [](const IntLanes& squares, const IntLanes& products, IntLanes* scale,
                        IntLanes* gain) __attribute__((always_inline)) {
    IntLanes s, g;
    for (int t = 0; t < kIntLanes; ++t) {
      const float divisor = squares.v[t] > 0 ? squares.v[t] : 1.0f;  // without codes products are 0
      s.v[t] = products.v[t] / divisor;
      g.v[t] = s.v[t] * products.v[t];
    }
    *scale = s;
    *gain = g;
  };
  solve(qq, xq, &scale[0], &gain[0]);
  solve(other_qq, other_xq, &scale[1], &gain[1]);
}

CVXQ_CPU_CLONES void SolveAsymmetric(const float* x, const float* weight, int64_t n,
                                     const IntMoments& moments, float high, const IntLanes& inverse,
                                     IntLanes* zero, IntLanes* scale, IntLanes* gain) {
  CodeSums sums;
  SumCodes(x, weight, n, 0, high, inverse, *zero, &sums);
  const float total = moments.weight, first = moments.first;
  for (int t = 0; t < kIntLanes; ++t) {
    // x ~ scale code + offset, and the zero point -offset / scale.
    const float q = sums.q.v[t], qq = sums.qq.v[t], xq = sums.xq.v[t];
    const float slope = total * xq - first * q, determinant = total * qq - q * q;
    const bool solved = slope > 0 && determinant > 0;
    const float divisor = solved ? total * slope : 1.0f;
    float real = solved ? (q * slope - first * determinant) / divisor : zero->v[t];
    real = real < 0 ? 0 : real;
    real = real > high ? high : real;
    const float z = (real + kRounder) - kRounder;
    const float top = xq - z * first, bottom = (qq - (2 * z) * q) + (z * z) * total;
    const float safe = bottom > 0 ? bottom : 1.0f;
    zero->v[t] = real;
    scale->v[t] = top / safe;
    gain->v[t] = bottom > 0 && top > 0 ? scale->v[t] * top : 0.0f;
  }
}

CVXQ_CPU_CLONES void SumErrors(const float* x, const float* weight, int64_t n, const uint16_t* bits,
                               DType dtype, float per_unit, const IntLanes& low,
                               const IntLanes& high, IntLanes* errors) {
  IntLanes scale, inverse, sum;
  const bool half = dtype == DType::kF16;
  for (int t = 0; t < kIntLanes; ++t) {
    // A half in a float's place has an exponent too small by 112, which an exact product repairs.
    const uint32_t sign = static_cast<uint32_t>(bits[t] & 0x8000u) << 16;
    const uint32_t rest = static_cast<uint32_t>(bits[t] & 0x7fffu) << (half ? 13 : 16);
    const float size = std::bit_cast<float>(rest) * (half ? 0x1p112f : 1.0f);
    scale.v[t] = std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign) * per_unit;
    inverse.v[t] = 1 / scale.v[t];
  }
  for (int64_t c = 0; c < n; ++c) {
    const float w = weight[c];
    for (int t = 0; t < kIntLanes; ++t) {
      const float code = CodeOf(x[c] * inverse.v[t], low.v[t], high.v[t]);
      const float error = x[c] - code * scale.v[t];
      sum.v[t] += (w * error) * error;
    }
  }
  *errors = sum;
}

CVXQ_CPU_CLONES float RefitScale(const float* x, const float* weight, int64_t n, float scale,
                                 float low, float high) {
  const float inverse = 1 / scale;
  IntLanes qq, xq;
  const int64_t whole = n / kIntLanes * kIntLanes;
  for (int64_t c = 0; c < whole; c += kIntLanes) {
    for (int t = 0; t < kIntLanes; ++t) {
      const float code = CodeOf(x[c + t] * inverse, low, high);
      const float weighted = weight[c + t] * code;
      qq.v[t] += weighted * code;
      xq.v[t] += weighted * x[c + t];
    }
  }
  for (int64_t c = whole; c < n; ++c) {
    const float code = CodeOf(x[c] * inverse, low, high);
    const float weighted = weight[c] * code;
    qq.v[0] += weighted * code;
    xq.v[0] += weighted * x[c];
  }
  const auto add = [](float a, float b) __attribute__((always_inline)) { return a + b; };
  const float squares = Fold(qq, add), products = Fold(xq, add);
  return squares > 0 && products > 0 ? products / squares : scale;
}

}  // namespace cvxq
