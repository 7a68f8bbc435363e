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

int IndexOfLeast(const IntLanes& lanes) {
  return static_cast<int>(std::min_element(lanes.v, lanes.v + kIntLanes) - lanes.v);
}
int IndexOfMost(const IntLanes& lanes) {
  return static_cast<int>(std::max_element(lanes.v, lanes.v + kIntLanes) - lanes.v);
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
  float best_gain = 0, best_scale = widest;
  for (const float sign : {1.0f, -1.0f}) {
    IntLanes inverse, scale, gain;
    const float first = sign / widest, last = sign / narrowest;
    for (int t = 0; t < kIntLanes; ++t) {
      inverse.v[t] = first + (last - first) * (static_cast<float>(t) / (kIntLanes - 1));
    }
    SolveSymmetric(x_.data(), weight_.data(), block_, -half, high, inverse, &scale, &gain);
    const int best = IndexOfMost(gain);
    if (gain.v[best] > best_gain) {
      best_gain = gain.v[best];
      best_scale = scale.v[best];
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
  IntLanes inverse, zeros, scale, gain;
  for (int t = 0; t < kIntLanes; ++t) {
    const auto shrink = [&](int k) { return 1 - (1 - narrowest) * static_cast<float>(k) / 3; };
    const float low = std::min(0.0f, mean + (least - mean) * shrink(t % kEnds));
    const float high = std::max(0.0f, mean + (most - mean) * shrink(t / kEnds));
    inverse.v[t] = top_ / (high > low ? high - low : width);
    zeros.v[t] = -low * inverse.v[t];
  }
  SolveAsymmetric(x_.data(), weight_.data(), block_, moments_, top_, inverse, &zeros, &scale,
                  &gain);
  const int start = IndexOfMost(gain);
  const float plain = width / top_;  // what no search would take
  IntFit fit{NearestScale((gain.v[start] > 0 ? scale.v[start] : plain) * unit_, scale_),
             static_cast<uint8_t>(zeros.v[start])};
  // Four zero points about the best, each with four scales; then about the best of these, closer.
  for (const int stride : {3 * Stride(), Stride()}) {
    uint16_t scales[kIntLanes];
    for (int t = 0; t < kIntLanes; ++t) {
      scales[t] = Beside(fit.scale, (t % kEnds - 1) * stride, scale_);
      zeros.v[t] = std::clamp(static_cast<float>(fit.zero + t / kEnds - 1), 0.0f, top_);
    }
    if (stride != Stride()) {
      scales[kIntLanes - 1] = NearestScale(plain * unit_, scale_);
      zeros.v[kIntLanes - 1] = std::nearbyint(-least / plain);
    }
    const int best = BestOf(scales, zeros);
    fit = {scales[best], static_cast<uint8_t>(zeros.v[best])};
  }
  return fit;
}

}  // namespace cvxq
