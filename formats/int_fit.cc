#include "formats/int_fit.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace cvxq {
namespace {

// The step of least squared error for a normal variable of deviation 1, by bits.
constexpr std::array<float, 9> kNormalStep = {0,      0,      0.996f,  0.586f, 0.335f,
                                              0.188f, 0.104f, 0.0569f, 0.0308f};

// The power of two that brings a value > 0 into [1, 2), for values from 2^-126 to 2^127.
float PowerBelow(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0x7f800000u);
}

// The least and the largest of finite scales that are no subnormal floats, as bits.
struct ScaleRange {
  int least, most;
};
ScaleRange RangeOf(DType dtype) {
  return dtype == DType::kF16 ? ScaleRange{1, 0x7bff} : ScaleRange{0x80, 0x7f7f};
}

// The scale `steps` stored ones further from 0, of the same sign.
uint16_t Beside(uint16_t bits, int steps, DType dtype) {
  const ScaleRange range = RangeOf(dtype);
  const int size = std::clamp((bits & 0x7fff) + steps, range.least, range.most);
  return static_cast<uint16_t>((bits & 0x8000) | size);
}

}  // namespace

uint16_t NearestScale(float value, DType dtype) {
  const ScaleRange range = RangeOf(dtype);
  const float size =
      std::clamp(std::fabs(value), ScaleValue(static_cast<uint16_t>(range.least), dtype),
                 ScaleValue(static_cast<uint16_t>(range.most), dtype));
  const float clamped = std::copysign(size, value);
  return dtype == DType::kF16 ? FloatToF16(clamped) : FloatToBF16(clamped);
}

float ScaleValue(uint16_t bits, DType dtype) {
  return dtype == DType::kF16 ? F16ToFloat(bits) : BF16ToFloat(bits);
}

IntSearch::IntSearch(int bits, DType scale, int64_t block)
    : bits_(bits),
      scale_(scale),
      block_(block),
      top_(static_cast<float>((1 << bits) - 1)),
      x_(block),
      weight_(block) {}

bool IntSearch::Load(const float* x, const float* weight) {
  constexpr float kLeast = 0x1p-100f;  // less is nothing
  float magnitude = 0, heaviest = 0;
  LargestOf(x, weight, block_, &magnitude, &heaviest);
  if (magnitude < kLeast) return false;
  unit_ = PowerBelow(magnitude);
  moments_ =
      ScaleBlock(x, weight, block_, 1 / unit_, heaviest < kLeast ? 0 : 1 / PowerBelow(heaviest),
                 x_.data(), weight_.data());
  return true;
}

// Between scales that are tried: half a percent or so.
int IntSearch::Stride() const { return scale_ == DType::kBF16 ? 1 : bits_ <= 4 ? 8 : 4; }

int IntSearch::BestOf(const uint16_t* scales, const IntLanes& zeros) const {
  IntLanes low, high, errors;
  for (int t = 0; t < kIntLanes; ++t) {
    low.v[t] = -zeros.v[t];
    high.v[t] = top_ - zeros.v[t];
  }
  SumErrors(x_.data(), weight_.data(), block_, scales, scale_, 1 / unit_, low, high, &errors);
  return IndexOfLeast(errors);
}

IntFit IntSearch::Symmetric(const float* x, const float* weight) {
  if (!Load(x, weight)) return {NearestScale(0, scale_), 0};
  const float half = 0.5f * (top_ + 1), high = half - 1;
  // From the step that reaches the largest weight down to where normal weights would have theirs;
  // of both signs, since there is one code more below 0.
  const float largest = std::max(moments_.most, -moments_.least);
  const float deviation = std::sqrt(moments_.second / moments_.weight);
  const float widest = largest / high;
  const float narrowest = std::min(0.75f * widest, 0.85f * kNormalStep[bits_] * deviation);
  IntLanes inverse[2], scale[2], gain[2];
  const float first = 1 / widest, last = 1 / narrowest;
  for (int t = 0; t < kIntLanes; ++t) {
    inverse[0].v[t] = first + (last - first) * (static_cast<float>(t) / (kIntLanes - 1));
    inverse[1].v[t] = -inverse[0].v[t];
  }
  SolveSymmetric(x_.data(), weight_.data(), block_, -half, high, inverse, scale, gain);
  float best_gain = 0, best_scale = widest;
  for (const int sign : {0, 1}) {
    const int best = IndexOfMost(gain[sign]);
    if (gain[sign].v[best] > best_gain) {
      best_gain = gain[sign].v[best];
      best_scale = scale[sign].v[best];
    }
  }
  uint16_t scales[kIntLanes];
  IntLanes zeros;
  const uint16_t middle = NearestScale(best_scale * unit_, scale_);
  for (int t = 0; t < kIntLanes; ++t) {
    scales[t] = Beside(middle, (t - (kIntLanes / 2 - 1)) * Stride(), scale_);
    zeros.v[t] = half;
  }
  scales[kIntLanes - 1] = NearestScale(largest / (half - 0.5f) * unit_, scale_);
  return {scales[BestOf(scales, zeros)], 0};
}

IntFit IntSearch::Asymmetric(const float* x, const float* weight) {
  if (!Load(x, weight)) return {NearestScale(0, scale_), 0};
  constexpr int kEnds = 4;
  static_assert(kEnds * kEnds == kIntLanes);
  // Ranges from all weights down to what normal ones would have, each end by itself.
  const float mean = moments_.first / moments_.weight;
  const float variance = moments_.second / moments_.weight - mean * mean;
  const float least = moments_.least, most = moments_.most, width = most - least;
  const float narrowest = std::min(
      0.8f, 0.9f * kNormalStep[bits_] * top_ * std::sqrt(std::max(0.0f, variance)) / width);
  float low[kEnds], high[kEnds];
  for (int k = 0; k < kEnds; ++k) {
    const float shrink = 1 - (1 - narrowest) * static_cast<float>(k) / 3;
    low[k] = std::min(0.0f, mean + (least - mean) * shrink);
    high[k] = std::max(0.0f, mean + (most - mean) * shrink);
  }
  IntLanes inverse, zeros, scale, gain;
  for (int t = 0; t < kIntLanes; ++t) {
    const float range = high[t / kEnds] - low[t % kEnds];
    inverse.v[t] = range > 0 ? range : width;
  }
  for (int t = 0; t < kIntLanes; ++t) inverse.v[t] = top_ / inverse.v[t];
  for (int t = 0; t < kIntLanes; ++t) zeros.v[t] = -low[t % kEnds] * inverse.v[t];
  SolveAsymmetric(x_.data(), weight_.data(), block_, moments_, top_, inverse, &zeros, &scale,
                  &gain);
  const int start = IndexOfMost(gain);
  const float plain = width / top_;  // what no search would take
  IntFit fit{NearestScale((gain.v[start] > 0 ? scale.v[start] : plain) * unit_, scale_),
             static_cast<uint8_t>(zeros.v[start])};
  // Four zero points about the best, each with four scales, and what no search would take.
  uint16_t beside[kEnds], scales[kIntLanes];
  float near[kEnds];
  for (int k = 0; k < kEnds; ++k) {
    beside[k] = Beside(fit.scale, (k - 1) * 2 * Stride(), scale_);
    near[k] = std::clamp(static_cast<float>(fit.zero + k - 1), 0.0f, top_);
  }
  for (int t = 0; t < kIntLanes; ++t) {
    scales[t] = beside[t % kEnds];
    zeros.v[t] = near[t / kEnds];
  }
  scales[kIntLanes - 1] = NearestScale(plain * unit_, scale_);
  zeros.v[kIntLanes - 1] = std::nearbyint(-least / plain);
  const int best = BestOf(scales, zeros);
  fit = {scales[best], static_cast<uint8_t>(zeros.v[best])};
  // With the codes of the best, the scale of least squares is no worse: of those that are stored
  // the nearest to it is no further away than theirs.
  const float refitted =
      RefitScale(x_.data(), weight_.data(), block_, ScaleValue(fit.scale, scale_) / unit_,
                 -zeros.v[best], top_ - zeros.v[best]);
  fit.scale = NearestScale(refitted * unit_, scale_);
  return fit;
}

}  // namespace cvxq
