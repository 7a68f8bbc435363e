#include "quant/importance.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

float Log2OrNothing(double value) {
  return value > 0 && std::isfinite(value) ? static_cast<float>(std::log2(value))
                                           : -std::numeric_limits<float>::infinity();
}

// y[k] += a * x[k]: the inner loop of both recursions, over the clusters.
CVXQ_CPU_CLONES void Add(float a, const float* x, int64_t n, float* y) {
  for (int64_t k = 0; k < n; ++k) y[k] += a * x[k];
}

}  // namespace

std::vector<float> GroupImportance(std::span<const float> squared_gradient,
                                   std::span<const float> variance) {
  std::vector<float> importance(squared_gradient.size());
  for (size_t g = 0; g < importance.size(); ++g) {
    importance[g] = Log2OrNothing(static_cast<double>(squared_gradient[g]) * variance[g]);
  }
  return importance;
}

std::vector<float> FeedbackImportance(const FeedbackImportanceInput& input) {
  const GroupLayout& layout = *input.layout;
  const CurvatureFactor& factor = *input.factor;
  const int64_t n = factor.n, clusters = layout.cluster_count();
  // By place and cluster: S^2, M, and f(b).
  std::vector<float> variance(n * clusters), weight(n * clusters), left(n * clusters, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < clusters; ++k) {
      const int64_t group = k * n + factor.order[i];
      variance[i * clusters + k] = input.mean_square[group];
      weight[i * clusters + k] = factor.diagonal[i];
      if (input.depth != nullptr) {
        left[i * clusters + k] = static_cast<float>(input.distortion[(*input.depth)[group]]);
      }
    }
  }
  if (input.depth != nullptr) {
    std::vector<float> error(clusters);
    for (int64_t j = n - 1; j >= 0; --j) {
      for (int64_t k = 0; k < clusters; ++k) {
        error[k] = left[j * clusters + k] * variance[j * clusters + k];
      }
      const float* l = &factor.lower[j * n];
      for (int64_t i = 0; i < j; ++i) {
        Add(l[i] * l[i], error.data(), clusters, &variance[i * clusters]);
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < clusters; ++k) {
        left[j * clusters + k] *= weight[j * clusters + k];  // f(b_j) M_j, final at j
      }
      for (int64_t i = j + 1; i < n; ++i) {
        const float l = factor.lower[i * n + j];
        Add(l * l, &left[j * clusters], clusters, &weight[i * clusters]);
      }
    }
  }
  std::vector<float> importance(layout.group_count());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < clusters; ++k) {
      importance[k * n + factor.order[i]] =
          Log2OrNothing(static_cast<double>(input.row_gradient[k]) * weight[i * clusters + k] *
                        variance[i * clusters + k]);
    }
  }
  return importance;
}

}  // namespace cvxq
