#include "formats/float_types.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "formats/float_codes.h"
#include "formats/ggml_types.h"
#include "formats/int_fit.h"
#include "formats/int_sums.h"
#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr int kTrials = 16;

// Errors of a row in E4M3 on 16 scales, in units of 1 / unit. The last bit of a value is 2^-3 of
// the power of two below it, but no less than 2^-9: adding 1.5 * 2^23 of these leaves no room for a
// fraction.
CVXQ_CPU_CLONES void SumFp8Errors(const float* x, const float* weight, int64_t n, bool equal,
                                  float unit, const float* inverse, const float* scale,
                                  float* errors) {
  float sum[kTrials] = {};
  for (int64_t c = 0; c < n; ++c) {
    const float size = std::fabs(x[c]), w = equal ? 1.0f : weight[c];
    for (int t = 0; t < kTrials; ++t) {
      float value = size * inverse[t];
      value = value > kE4M3Most ? kE4M3Most : value;
      const float normal = value < 0x1p-6f ? 0x1p-6f : value;
      const float power = std::bit_cast<float>(std::bit_cast<uint32_t>(normal) & 0x7f800000u);
      const float rounder = power * 0x1.8p20f;
      value = (value + rounder) - rounder;
      const float error = (size - value * scale[t]) * unit;
      sum[t] += w * (error * error);
    }
  }
  for (int t = 0; t < kTrials; ++t) errors[t] = sum[t];
}

// Scales from that which maps the largest to 448 up to twice it, and a little below.
uint16_t FitRow(const float* x, const float* weight, int64_t n, DType dtype) {
  constexpr int kBelow = 3, kRounds = 2, kAll = kRounds * kTrials;
  float largest = 0, heaviest = 0;
  LargestOf(x, weight, n, &largest, &heaviest);
  std::array<uint16_t, kAll> bits;
  float inverse[kAll], scale[kAll], errors[kAll];
  for (int t = 0; t < kAll; ++t) {
    const float octave = static_cast<float>(t - kBelow) / (kAll - kBelow);
    bits[t] = NearestScale(largest / kE4M3Most * std::exp2(octave), dtype);
    scale[t] = ScaleValue(bits[t], dtype);
    inverse[t] = 1 / scale[t];
  }
  for (int first = 0; first < kAll; first += kTrials) {
    SumFp8Errors(x, weight, n, heaviest == 0, inverse[0], inverse + first, scale + first,
                 errors + first);
  }
  return bits[std::min_element(errors, errors + kAll) - errors];
}

}  // namespace

std::span<const float> Fp8Type::levels() const { return E4M3Levels(); }

void Fp8Type::Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale,
                  uint8_t* fields, float* step, float* offset) const {
  for (int64_t b = 0; b < blocks; ++b) {
    const uint16_t scale = FitRow(x + b * columns_, weight + b * columns_, columns_, scale_);
    fields[2 * b] = static_cast<uint8_t>(scale & 255);
    fields[2 * b + 1] = static_cast<uint8_t>(scale >> 8);
  }
  Grids(fields, blocks, matrix_scale, step, offset);
}

void Fp8Type::Grids(const uint8_t* fields, int64_t blocks, float /*matrix_scale*/, float* step,
                    float* /*offset*/) const {
  for (int64_t b = 0; b < blocks; ++b) {
    step[b] = ScaleValue(static_cast<uint16_t>(fields[2 * b] | fields[2 * b + 1] << 8), scale_);
  }
}

Fp4Type::Fp4Type(Kind kind, std::optional<float> largest)
    : kind_(kind),
      base_(*FindGgmlType(kind == Kind::kNvfp4 ? "nvfp4" : "mxfp4")),
      largest_(largest) {}

int64_t Fp4Type::Bytes(int64_t rows, int64_t columns) const {
  constexpr int64_t kMatrixScale = 4;
  return rows * (columns / 2 + columns / block()) + (kind_ == Kind::kNvfp4 ? kMatrixScale : 0);
}

float Fp4Type::MatrixScale(float largest) const {
  const float scale = base_.MatrixScale(largest_.value_or(largest));
  return std::exp2(std::ceil(std::log2(scale)));  // 1 for mxfp4
}

void Fp4Type::Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale,
                  uint8_t* fields, float* step, float* offset) const {
  const int64_t each = base_.block() / block();  // blocks in one of GGUF's
  const int64_t whole = blocks / each, rest = blocks % each;
  base_.Fit(x, weight, whole, matrix_scale, fields, step, offset);
  if (rest == 0) return;
  const int64_t done = whole * each, values = rest * block();
  std::vector<float> more(base_.block()), more_weight(base_.block()), more_step(each);
  std::vector<uint8_t> more_fields(each);
  std::copy_n(x + done * block(), values, more.begin());
  std::copy_n(weight + done * block(), values, more_weight.begin());
  base_.Fit(more.data(), more_weight.data(), 1, matrix_scale, more_fields.data(), more_step.data(),
            nullptr);
  std::copy_n(more_fields.begin(), rest, fields + done);
  std::copy_n(more_step.begin(), rest, step + done);
}

void Fp4Type::Grids(const uint8_t* fields, int64_t blocks, float matrix_scale, float* step,
                    float* /*offset*/) const {
  for (int64_t b = 0; b < blocks; ++b) {
    const float scale = kind_ == Kind::kNvfp4 ? E4M3ToFloat(fields[b]) : E8M0ToFloat(fields[b]);
    step[b] = 0.5f * scale * matrix_scale;  // levels are twice E2M1
  }
}

}  // namespace cvxq
