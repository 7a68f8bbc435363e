#include "formats/int_sums.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr float kRounder = 0x1.8p23f;  // adding it leaves no room for a fraction

float Sum(const IntLanes& lanes) {
  float sum = 0;
  for (const float v : lanes.v) sum += v;
  return sum;
}

struct LaneMoments {
  IntLanes least, most, weight, first, second;
};

CVXQ_CPU_CLONES void ScaleLanes(const float* x, const float* weight, int64_t n, float by,
                                float weigh, float* to, float* to_weight, LaneMoments* moments) {
  LaneMoments m;
  const float add = weigh == 0 ? 1.0f : 0.0f;
  for (int64_t first = 0; first < n; first += kIntLanes) {
    for (int t = 0; t < kIntLanes; ++t) {
      const float v = x[first + t] * by, w = weight[first + t] * weigh + add;
      to[first + t] = v;
      to_weight[first + t] = w;
      m.least.v[t] = v < m.least.v[t] ? v : m.least.v[t];
      m.most.v[t] = v > m.most.v[t] ? v : m.most.v[t];
      m.weight.v[t] += w;
      m.first.v[t] += w * v;
      m.second.v[t] += (w * v) * v;
    }
  }
  *moments = m;
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
      float code = x[c] * inverse.v[t] + zero.v[t];
      code = code < low ? low : code;
      code = code > high ? high : code;
      code = (code + kRounder) - kRounder;
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
  *magnitude = *std::max_element(m.v, m.v + kIntLanes);
  *heaviest = *std::max_element(h.v, h.v + kIntLanes);
}

IntMoments ScaleBlock(const float* x, const float* weight, int64_t n, float by, float weigh,
                      float* to, float* to_weight) {
  LaneMoments lanes;
  const int64_t whole = n / kIntLanes * kIntLanes;
  ScaleLanes(x, weight, whole, by, weigh, to, to_weight, &lanes);
  IntMoments m{.least = *std::min_element(lanes.least.v, lanes.least.v + kIntLanes),
               .most = *std::max_element(lanes.most.v, lanes.most.v + kIntLanes),
               .weight = Sum(lanes.weight),
               .first = Sum(lanes.first),
               .second = Sum(lanes.second)};
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
                                    float high, const IntLanes& inverse, IntLanes* scale,
                                    IntLanes* gain) {
  IntLanes qq, xq;
  for (int64_t c = 0; c < n; ++c) {
    const float w = weight[c], wx = w * x[c];
    for (int t = 0; t < kIntLanes; ++t) {
      float code = x[c] * inverse.v[t];
      code = code < low ? low : code;
      code = code > high ? high : code;
      code = (code + kRounder) - kRounder;
      qq.v[t] += (w * code) * code;
      xq.v[t] += wx * code;
    }
  }
  for (int t = 0; t < kIntLanes; ++t) {
    const float divisor = qq.v[t] > 0 ? qq.v[t] : 1.0f;  // without codes xq is 0 too
    scale->v[t] = xq.v[t] / divisor;
    gain->v[t] = scale->v[t] * xq.v[t];
  }
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
      float code = x[c] * inverse.v[t];
      code = code < low.v[t] ? low.v[t] : code;
      code = code > high.v[t] ? high.v[t] : code;
      code = (code + kRounder) - kRounder;
      const float error = x[c] - code * scale.v[t];
      sum.v[t] += (w * error) * error;
    }
  }
  *errors = sum;
}

}  // namespace cvxq
