#include "quant/curvature.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/host_gemm.h"

namespace cvxq {
namespace {

constexpr int64_t kPanel = 96;  // columns of a panel: its triangle is solved in double

// Factors the [m, m] diagonal block at `a` (leading dimension n) in double, writes the factor back
// and gives the inverse of the factor [m, m] (lower, zero above).
bool FactorDiagonalBlock(float* a, int64_t m, int64_t n, std::vector<double>& block,
                         std::vector<float>& inverse) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j <= i; ++j) block[i * m + j] = a[i * n + j];
  }
  for (int64_t j = 0; j < m; ++j) {
    double pivot = block[j * m + j];
    for (int64_t k = 0; k < j; ++k) pivot -= block[j * m + k] * block[j * m + k];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    block[j * m + j] = root;
    for (int64_t i = j + 1; i < m; ++i) {
      double sum = block[i * m + j];
      for (int64_t k = 0; k < j; ++k) sum -= block[i * m + k] * block[j * m + k];
      block[i * m + j] = sum / root;
    }
  }
  std::vector<double> column(m);
  for (int64_t j = 0; j < m; ++j) {  // column j of the inverse, by forward substitution
    for (int64_t i = 0; i < m; ++i) {
      double sum = i == j ? 1.0 : 0.0;
      for (int64_t k = j; k < i; ++k) sum -= block[i * m + k] * column[k];
      column[i] = i < j ? 0.0 : sum / block[i * m + i];
      inverse[i * m + j] = static_cast<float>(column[i]);
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j <= i; ++j) a[i * n + j] = static_cast<float>(block[i * m + j]);
  }
  return true;
}

}  // namespace

bool CholeskyInPlace(float* a, int64_t n) {
  std::vector<double> block(kPanel * kPanel);
  std::vector<float> inverse(kPanel * kPanel), panel;
  for (int64_t k = 0; k < n; k += kPanel) {
    const int64_t m = std::min(kPanel, n - k);
    float* diagonal = a + k * n + k;
    if (!FactorDiagonalBlock(diagonal, m, n, block, inverse)) return false;
    const int64_t rest = n - k - m;
    if (rest == 0) break;
    // Panel below: A21 <- A21 L11^-T.
    float* below = a + (k + m) * n + k;
    panel.resize(rest * m);
    HostGemm(false, true, rest, m, m, 1, below, n, inverse.data(), m, 0, panel.data(), m);
    for (int64_t i = 0; i < rest; ++i) std::copy_n(&panel[i * m], m, below + i * n);
    // Trailing lower triangle, by strips of rows: A22 -= A21 A21^T.
    constexpr int64_t kStrip = 256;
    for (int64_t i = 0; i < rest; i += kStrip) {
      const int64_t rows = std::min(kStrip, rest - i);
      HostGemm(false, true, rows, i + rows, m, -1, &panel[i * m], m, panel.data(), m, 1,
               a + (k + m + i) * n + k + m, n);
    }
  }
  return true;
}

std::vector<int32_t> WorkPlaces(std::span<const float> diagonal, WorkOrder order) {
  std::vector<int32_t> places(diagonal.size());
  if (order == WorkOrder::kFirstFirst) {
    std::iota(places.rbegin(), places.rend(), 0);
    return places;
  }
  std::iota(places.begin(), places.end(), 0);
  // NaN has no order; FactorInOrder refuses it.
  if (!std::all_of(diagonal.begin(), diagonal.end(), [](float d) { return std::isfinite(d); })) {
    return places;
  }
  const float sign = order == WorkOrder::kLeastFirst ? 1.0f : -1.0f;
  std::stable_sort(places.begin(), places.end(),
                   [&](int32_t x, int32_t y) { return sign * diagonal[x] > sign * diagonal[y]; });
  return places;
}

StatusOr<CurvatureFactor> FactorCurvature(std::vector<float> h, int64_t n, double damping,
                                          WorkOrder order) {
  std::vector<float> diagonal(n);
  for (int64_t i = 0; i < n; ++i) diagonal[i] = h[i * n + i];
  return FactorInOrder(h, WorkPlaces(diagonal, order), damping);
}

StatusOr<CurvatureFactor> FactorInOrder(const std::vector<float>& h, std::vector<int32_t> order,
                                        double damping) {
  const int64_t n = static_cast<int64_t>(order.size());
  CurvatureFactor factor;
  factor.n = n;
  factor.order = std::move(order);
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += h[i * n + i];
  if (!std::isfinite(trace)) {
    return absl::DataLossError(
        "second moments are not finite; check the model for NaN or exploding activations");
  }
  factor.lower.assign(n * n, 0.0f);
  factor.diagonal.assign(n, 1.0f);
  const double mean = trace / n;
  for (double share = damping;; share = std::max(share * 10, 1e-4)) {
    factor.damping = share;
    for (int64_t i = 0; i < n; ++i) {
      const float* row = &h[static_cast<int64_t>(factor.order[i]) * n];
      for (int64_t j = 0; j <= i; ++j)
        factor.lower[i * n + j] = mean > 0 ? row[factor.order[j]] : 0;
      factor.lower[i * n + i] += static_cast<float>(mean > 0 ? share * mean : 1.0);
    }
    if (CholeskyInPlace(factor.lower.data(), n)) break;
    if (share >= 1) {
      return absl::DataLossError("second moments cannot be factored even with heavy damping");
    }
  }
  std::vector<float> inverse_root(n);
  for (int64_t j = 0; j < n; ++j) {
    const float root = factor.lower[j * n + j];
    factor.diagonal[j] = root * root;
    inverse_root[j] = 1 / root;
  }
  for (int64_t i = 0; i < n; ++i) {
    float* row = &factor.lower[i * n];
    for (int64_t j = 0; j < i; ++j) row[j] *= inverse_root[j];
    row[i] = 1;
    std::fill(row + i + 1, row + n, 0.0f);
  }
  return factor;
}

}  // namespace cvxq
