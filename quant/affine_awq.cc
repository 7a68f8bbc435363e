// awq: input channels are scaled so that those with large inputs are rounded more finely.
#include <algorithm>
#include <cmath>

#include "kernels/host_gemm.h"
#include "quant/affine.h"
#include "quant/affine_codecs.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

constexpr int64_t kTileRows = 64, kPanel = 256;
constexpr int kClipSteps = 10;  // shares 1, 0.95, ..., 0.55

std::vector<float> ChannelScales(std::span<const float> moments, int exponent) {
  constexpr double kLeast = 1e-4, kLeastHalf = 0x1p-14, kMostHalf = 65504;
  const double power = static_cast<double>(exponent) / kAwqExponents / 2;
  std::vector<double> s(moments.size());
  for (size_t c = 0; c < s.size(); ++c) {
    s[c] = std::max(std::pow(std::max<double>(moments[c], 0), power), kLeast);
  }
  const auto [least, most] = std::minmax_element(s.begin(), s.end());
  const double middle = std::sqrt(*least * *most);
  std::vector<float> scales(s.size());
  for (size_t c = 0; c < s.size(); ++c) {
    const double scale = std::clamp(s[c] / middle, kLeastHalf, kMostHalf);
    scales[c] = F16ToFloat(FloatToF16(static_cast<float>(scale)));
  }
  return scales;
}

// W with columns times their scales [M, N].
std::vector<float> Scaled(const AffineInput& in, const std::vector<float>& scales) {
  std::vector<float> w(in.w, in.w + in.rows * in.columns);
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t c = 0; c < in.columns; ++c) w[r * in.columns + c] *= scales[c];
  }
  return w;
}

// tr(E H E^T) = sum D (E L)^2 for the error of `decoded`.
double OutputError(const AffineInput& in, const std::vector<float>& decoded, ThreadPool& pool) {
  const CurvatureFactor& factor = *in.inputs;
  const int64_t n = in.columns, tiles = (in.rows + kTileRows - 1) / kTileRows;
  std::vector<double> sums(tiles);
  pool.ParallelFor(tiles, [&](int64_t tile) {
    const int64_t first = tile * kTileRows, rows = std::min(kTileRows, in.rows - first);
    std::vector<float> error(rows * n), product(rows * kPanel);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = (first + r) * n + factor.order[i];
        error[r * n + i] = decoded[at] - in.w[at];
      }
    }
    double sum = 0;
    for (int64_t begin = 0; begin < n; begin += kPanel) {  // L is zero above its diagonal
      const int64_t columns = std::min(kPanel, n - begin);
      HostGemm(false, false, rows, columns, n - begin, 1, &error[begin], n,
               &factor.lower[begin * n + begin], n, 0, product.data(), columns);
      for (int64_t i = 0; i < rows * columns; ++i) {
        const double d = factor.diagonal[begin + i % columns];
        sum += d * product[i] * product[i];
      }
    }
    sums[tile] = sum;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// H's block of the columns [begin, begin + n): its rows of L, times D, times themselves.
std::vector<float> MomentBlock(const CurvatureFactor& factor, const std::vector<int64_t>& place,
                               int64_t begin, int64_t n) {
  std::vector<float> lower(n * factor.n), scaled(n * factor.n), block(n * n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= place[begin + i]; ++j) {
      const float l = factor.lower[place[begin + i] * factor.n + j];
      lower[i * factor.n + j] = l;
      scaled[i * factor.n + j] = l * factor.diagonal[j];
    }
  }
  HostGemm(false, true, n, n, factor.n, 1, scaled.data(), factor.n, lower.data(), factor.n, 0,
           block.data(), n);
  return block;
}

// Cuts the range of each group of `w` (scaled) and sets the grid of least e H e^T, with e the error
// of the group in units of the original weights and H its block.
void ClipGroup(const std::vector<float>& w, int64_t g, const std::vector<float>& block,
               AffineMatrix& m) {
  const int64_t begin = g * m.group, n = std::min(m.group, m.columns - begin);
  std::vector<float> error(kTileRows * n), product(kTileRows * n);
  std::vector<AffineGrid> grid(kTileRows);
  std::vector<double> least(kTileRows);
  for (int64_t first = 0; first < m.rows; first += kTileRows) {
    const int64_t rows = std::min(kTileRows, m.rows - first);
    for (int step = 0; step < kClipSteps; ++step) {
      for (int64_t r = 0; r < rows; ++r) {
        const float* values = &w[(first + r) * m.columns + begin];
        const ValueRange range = RangeOf(values, n);
        const float end = (1 - 0.05f * static_cast<float>(step)) * std::max(-range.low, range.high);
        grid[r] = GridOfRange({std::max(range.low, -end), std::min(range.high, end)}, m.bits);
        for (int64_t c = 0; c < n; ++c) {
          const float value = grid[r].Value(grid[r].Code(values[c], m.bits));
          error[r * n + c] = (value - values[c]) / m.column_scale[begin + c];
        }
      }
      HostGemm(false, false, rows, n, n, 1, error.data(), n, block.data(), n, 0, product.data(), n);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t i = r * n; i < (r + 1) * n; ++i) {
          sum += static_cast<double>(error[i]) * product[i];
        }
        if (step > 0 && !(sum < least[r])) continue;
        least[r] = sum;
        SetGrid(m, (first + r) * m.group_count() + g, grid[r]);
      }
    }
  }
}

}  // namespace

AwqErrors MeasureAwqErrors(const AffineInput& in, std::span<const float> moments,
                           ThreadPool& pool) {
  AwqErrors errors;
  for (int i = 0; i < kAwqExponents; ++i) {
    errors[i] = OutputError(in, Decode(CodeAwq(in, moments, i, /*clip=*/false, pool)), pool);
  }
  return errors;
}

int BestAwqExponent(const AwqErrors& errors) {
  return static_cast<int>(std::min_element(errors.begin(), errors.end()) - errors.begin());
}

AffineMatrix CodeAwq(const AffineInput& in, std::span<const float> moments, int exponent, bool clip,
                     ThreadPool& pool) {
  AffineMatrix m = StartAffineMatrix(in.rows, in.columns, in.bits, in.group);
  m.column_scale = ChannelScales(moments, exponent);
  const std::vector<float> w = Scaled(in, m.column_scale);
  if (clip) {
    std::vector<int64_t> place(in.columns);
    for (int64_t i = 0; i < in.columns; ++i) place[in.inputs->order[i]] = i;
    pool.ParallelFor(m.group_count(), [&](int64_t g) {
      const int64_t begin = g * m.group, n = std::min(m.group, m.columns - begin);
      ClipGroup(w, g, MomentBlock(*in.inputs, place, begin, n), m);
    });
  } else {
    FitGrids(w.data(), /*share=*/1, /*skip=*/{}, pool, m);
  }
  RoundToNearest(w.data(), pool, m);
  return m;
}

}  // namespace cvxq
