#include "formats/int_fit.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr int kLanes = 16;
constexpr float kRounder = 0x1.8p23f;  // adding it leaves no room for a fraction

// The step of least squared error for a normal variable of deviation 1, by bits.
constexpr std::array<float, 9> kNormalStep = {0,      0,      0.996f,  0.586f, 0.335f,
                                              0.188f, 0.104f, 0.0569f, 0.0308f};

struct Lanes {
  alignas(64) float v[kLanes];
};

// Sums over a block of what the codes of 16 trials make. code = x * inverse + zero, rounded, within
// [low, high].
struct CodeSums {
  Lanes q, qq, xq;  // of weight code, weight code^2, weight x code
};

CVXQ_CPU_CLONES void SumCodes(const float* x, const float* weight, int64_t n, float low, float high,
                              const Lanes& inverse, const Lanes& zero, CodeSums& sums) {
  Lanes q{}, qq{}, xq{};
  for (int64_t c = 0; c < n; ++c) {
    const float w = weight[c], wx = w * x[c];
    for (int t = 0; t < kLanes; ++t) {
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
  sums = {q, qq, xq};
}

// Errors of 16 grids: code = round(x * inverse) within [low, high], which have 0 for the zero
// point; the value is code * scale.
CVXQ_CPU_CLONES void SumErrors(const float* x, const float* weight, int64_t n, const Lanes& low,
                               const Lanes& high, const Lanes& inverse, const Lanes& scale,
                               Lanes& errors) {
  Lanes sum{};
  for (int64_t c = 0; c < n; ++c) {
    const float w = weight[c];
    for (int t = 0; t < kLanes; ++t) {
      float code = x[c] * inverse.v[t];
      code = code < low.v[t] ? low.v[t] : code;
      code = code > high.v[t] ? high.v[t] : code;
      code = (code + kRounder) - kRounder;
      const float error = x[c] - code * scale.v[t];
      sum.v[t] += (w * error) * error;
    }
  }
  errors = sum;
}

CVXQ_CPU_CLONES void Largest(const float* x, const float* weight, int64_t n, float* magnitude,
                             float* heaviest) {
  Lanes m{}, h{};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    for (int t = 0; t < kLanes; ++t) {
      const float a = std::fabs(x[c + t]), w = weight[c + t];
      m.v[t] = a > m.v[t] ? a : m.v[t];
      h.v[t] = w > h.v[t] ? w : h.v[t];
    }
  }
  for (; c < n; ++c) {
    m.v[0] = std::max(m.v[0], std::fabs(x[c]));
    h.v[0] = std::max(h.v[0], weight[c]);
  }
  *magnitude = *std::max_element(m.v, m.v + kLanes);
  *heaviest = *std::max_element(h.v, h.v + kLanes);
}

struct Moments {
  Lanes least, most, total, first, second;
};

CVXQ_CPU_CLONES void Scale(const float* x, const float* weight, int64_t n, float by, float weigh,
                           bool equal, float* out, float* out_weight, Moments& moments) {
  Moments m{};
  for (int64_t first = 0; first < n; first += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, n - first);
    Lanes value{}, w{};
    for (int64_t t = 0; t < count; ++t) {
      value.v[t] = x[first + t] * by;
      w.v[t] = equal ? 1.0f : weight[first + t] * weigh;
      out[first + t] = value.v[t];
      out_weight[first + t] = w.v[t];
    }
    for (int t = 0; t < kLanes; ++t) {
      const float v = value.v[t], wv = w.v[t] * v;
      m.least.v[t] = v < m.least.v[t] ? v : m.least.v[t];
      m.most.v[t] = v > m.most.v[t] ? v : m.most.v[t];
      m.total.v[t] += w.v[t];
      m.first.v[t] += wv;
      m.second.v[t] += wv * v;
    }
  }
  moments = m;
}

float Sum(const Lanes& lanes) {
  float sum = 0;
  for (const float v : lanes.v) sum += v;
  return sum;
}

// The power of two that brings a value > 0 into [1, 2), for values from 2^-126 to 2^127.
float PowerBelow(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0x7f800000u);
}

int IndexOfLeast(const Lanes& lanes) {
  return static_cast<int>(std::min_element(lanes.v, lanes.v + kLanes) - lanes.v);
}

}  // namespace

uint16_t NearestScale(float value, DType dtype) {
  const float least = dtype == DType::kF16 ? 0x1p-24f : 0x1p-126f;
  const float most = dtype == DType::kF16 ? 65504.0f : 0x1.fep127f;
  const float size = std::clamp(std::fabs(value), least, most);
  const float clamped = std::copysign(size, value);
  return dtype == DType::kF16 ? FloatToF16(clamped) : FloatToBF16(clamped);
}

float ScaleValue(uint16_t bits, DType dtype) {
  return dtype == DType::kF16 ? F16ToFloat(bits) : BF16ToFloat(bits);
}

IntSearch::IntSearch(int bits, DType scale, int64_t block)
    : bits_(bits), scale_(scale), block_(block), x_(block), weight_(block) {}

bool IntSearch::Load(const float* x, const float* weight) {
  constexpr float kLeast = 0x1p-100f;  // less is nothing
  float magnitude = 0, heaviest = 0;
  Largest(x, weight, block_, &magnitude, &heaviest);
  if (magnitude < kLeast) return false;
  const bool equal = heaviest < kLeast;
  unit_ = PowerBelow(magnitude);
  Moments m;
  Scale(x, weight, block_, 1 / unit_, equal ? 1 : 1 / PowerBelow(heaviest), equal, x_.data(),
        weight_.data(), m);
  least_ = *std::min_element(m.least.v, m.least.v + kLanes);
  most_ = *std::max_element(m.most.v, m.most.v + kLanes);
  total_ = Sum(m.total);
  mean_ = Sum(m.first) / total_;
  square_ = Sum(m.second) / total_;
  return true;
}

IntFit IntSearch::Stored(float scale, int zero) const {
  return {NearestScale(scale * unit_, scale_), static_cast<uint8_t>(zero)};
}

float IntSearch::ValueOf(IntFit fit) const { return ScaleValue(fit.scale, scale_) / unit_; }

IntFit IntSearch::Symmetric(const float* x, const float* weight) {
  if (!Load(x, weight)) return {NearestScale(0, scale_), 0};
  const auto half = static_cast<float>(1 << (bits_ - 1));
  const float low = -half, high = half - 1;
  // From the step that reaches the largest weight down to where normal weights would have theirs.
  const float widest = std::max(most_, -least_) / high;
  const float narrowest = std::min(0.75f * widest, 0.85f * kNormalStep[bits_] * std::sqrt(square_));
  const float ratio = std::pow(narrowest / widest, 1.0f / (kLanes - 1));
  float best_gain = -1, best_scale = widest;
  for (const float sign : {1.0f, -1.0f}) {
    Lanes inverse, zero{};
    float step = sign * widest;
    for (int t = 0; t < kLanes; ++t, step *= ratio) inverse.v[t] = 1 / step;
    CodeSums sums;
    SumCodes(x_.data(), weight_.data(), block_, low, high, inverse, zero, sums);
    for (int t = 0; t < kLanes; ++t) {
      if (!(sums.qq.v[t] > 0)) continue;
      const float scale = sums.xq.v[t] / sums.qq.v[t], gain = scale * sums.xq.v[t];
      if (gain > best_gain) {
        best_gain = gain;
        best_scale = scale;
      }
    }
  }
  const float reach = std::clamp(0.75f * (1 - ratio), 0.02f, 0.04f) / (kLanes / 2);
  const float plain = std::max(most_, -least_) / (half - 0.5f);  // what no search would take
  std::array<IntFit, kLanes> fits;
  Lanes lows, highs, inverse, scale, errors;
  for (int t = 0; t < kLanes; ++t) {
    const float scale_here = best_scale * (1 + static_cast<float>(t - kLanes / 2) * reach);
    fits[t] = Stored(t < kLanes - 1 ? scale_here : plain, 0);
    scale.v[t] = ValueOf(fits[t]);
    inverse.v[t] = 1 / scale.v[t];
    lows.v[t] = low;
    highs.v[t] = high;
  }
  SumErrors(x_.data(), weight_.data(), block_, lows, highs, inverse, scale, errors);
  return fits[IndexOfLeast(errors)];
}

IntFit IntSearch::Asymmetric(const float* x, const float* weight) {
  if (!Load(x, weight)) return {NearestScale(0, scale_), 0};
  const auto most_code = static_cast<float>((1 << bits_) - 1);
  // Ranges from all weights down to what normal ones would have, each end by itself.
  constexpr int kEnds = 4;
  static_assert(kEnds * kEnds == kLanes);
  const float deviation = std::sqrt(std::max(0.0f, square_ - mean_ * mean_));
  const float width = most_ - least_;  // both have 0 between them
  const float narrowest = std::min(0.8f, 0.9f * kNormalStep[bits_] * most_code * deviation / width);
  Lanes inverse, zero;
  for (int t = 0; t < kLanes; ++t) {
    const auto shrink = [&](int k) {
      return 1 - (1 - narrowest) * static_cast<float>(k) / (kEnds - 1);
    };
    const float low = std::min(0.0f, mean_ + (least_ - mean_) * shrink(t % kEnds));
    const float high = std::max(0.0f, mean_ + (most_ - mean_) * shrink(t / kEnds));
    inverse.v[t] = high > low ? most_code / (high - low) : most_code / width;
    zero.v[t] = -low * inverse.v[t];
  }
  CodeSums sums;
  SumCodes(x_.data(), weight_.data(), block_, 0, most_code, inverse, zero, sums);
  // Least squares for x ~ scale (code - zero), the zero point rounded, then the scale again.
  const float x_sum = mean_ * total_;
  float best_gain = -1, best_scale = 1 / inverse.v[0];
  float best_zero = std::clamp(zero.v[0], 0.0f, most_code);
  for (int t = 0; t < kLanes; ++t) {
    const float q = sums.q.v[t], qq = sums.qq.v[t], xq = sums.xq.v[t];
    const float determinant = total_ * qq - q * q;
    float real_zero = zero.v[t];
    if (determinant > 0) {
      const float scale = (total_ * xq - x_sum * q) / determinant;
      if (scale > 0) real_zero = (q - x_sum / scale) / total_;
    }
    real_zero = std::clamp(real_zero, 0.0f, most_code);
    const float z = std::nearbyint(real_zero);
    const float top = xq - z * x_sum, bottom = qq - 2 * z * q + z * z * total_;
    if (!(bottom > 0) || !(top > 0)) continue;
    if (top / bottom * top > best_gain) {
      best_gain = top / bottom * top;
      best_scale = top / bottom;
      best_zero = real_zero;
    }
  }
  // Four zero points about the best, each with four scales; then about the best of these, closer.
  const float plain_scale = width / most_code;
  const float plain_zero = std::nearbyint(-least_ / plain_scale);
  IntFit best;
  for (const float reach : {0.02f, 0.007f}) {
    std::array<IntFit, kLanes> fits;
    Lanes lows, highs, scale, errors;
    for (int t = 0; t < kLanes; ++t) {
      const auto up = static_cast<float>(t / kEnds - 1), step = static_cast<float>(t % kEnds - 1);
      const bool plain = t == kLanes - 1;  // what no search would take
      const float z = std::clamp(plain ? plain_zero : std::floor(best_zero) + up, 0.0f, most_code);
      fits[t] = Stored(plain ? plain_scale : best_scale * (1 + step * reach), static_cast<int>(z));
      scale.v[t] = ValueOf(fits[t]);
      inverse.v[t] = 1 / scale.v[t];
      lows.v[t] = -z;
      highs.v[t] = most_code - z;
    }
    SumErrors(x_.data(), weight_.data(), block_, lows, highs, inverse, scale, errors);
    best = fits[IndexOfLeast(errors)];
    best_scale = ValueOf(best);
    best_zero = best.zero;
  }
  return best;
}

}  // namespace cvxq
