#include "quant/tables.h"

#include <algorithm>
#include <cmath>

namespace cvxq {
namespace {

// A density on [-kReach, kReach] as masses of small cells: enough for 256 levels.
constexpr int kCells = 1 << 16;
constexpr double kReach = 24;

// Running sums of mass, mass * x and mass * x^2 over the cells: moments of any interval.
struct Density {
  std::vector<double> mass, first, second;  // [kCells + 1], prefix sums

  explicit Density(double shape) : mass(kCells + 1), first(kCells + 1), second(kCells + 1) {
    // Unit variance: a^2 = Gamma(1/shape) / Gamma(3/shape).
    const double a = std::exp(0.5 * (std::lgamma(1 / shape) - std::lgamma(3 / shape)));
    for (int i = 0; i < kCells; ++i) {
      const double x = Centre(i);
      const double p = std::exp(-std::pow(std::abs(x) / a, shape));
      mass[i + 1] = mass[i] + p;
      first[i + 1] = first[i] + p * x;
      second[i + 1] = second[i] + p * x * x;
    }
    const double total = mass[kCells];
    for (int i = 0; i <= kCells; ++i) {
      mass[i] /= total;
      first[i] /= total;
      second[i] /= total;
    }
  }
  static double Centre(int i) { return (i + 0.5) * (2 * kReach / kCells) - kReach; }
  static int Cell(double x) {
    return std::clamp(static_cast<int>(std::lround((x + kReach) * (kCells / (2 * kReach)))), 0,
                      kCells);
  }
};

double IntervalError(const Density& d, int begin, int end, double level) {
  return (d.second[end] - d.second[begin]) - 2 * level * (d.first[end] - d.first[begin]) +
         level * level * (d.mass[end] - d.mass[begin]);
}

void SetBoundariesBetween(LevelTables& tables, int b) {
  for (size_t i = 0; i + 1 < tables.table[b].size(); ++i) {
    tables.boundary[b].push_back(0.5f * (tables.table[b][i] + tables.table[b][i + 1]));
  }
}

// Quantile function of the Laplacian of scale s.
double LaplaceQuantile(double p, double s) {
  return p < 0.5 ? s * std::log(2 * p) : -s * std::log(2 * (1 - p));
}

}  // namespace

uint8_t LevelTables::Encode(int depth, float value) const {
  const std::vector<float>& edges = boundary[depth];
  return static_cast<uint8_t>(std::upper_bound(edges.begin(), edges.end(), value) - edges.begin());
}

LevelTables LloydMaxTables(double shape) {
  const Density density(shape);
  LevelTables tables;
  tables.distortion[0] = 1;
  for (int b = 1; b <= kMaxDepth; ++b) {
    const int n = 1 << b;
    // Start from the quantiles of the cube-root density, which is where the optimum lies at high
    // rate, then alternate centroids and midpoints.
    std::vector<double> level(n);
    for (int i = 0; i < n; ++i) level[i] = LaplaceQuantile((i + 0.5) / n, 3 / std::sqrt(2.0) * 0.7);
    std::vector<int> edge(n + 1);
    edge[0] = 0;
    edge[n] = kCells;
    for (int round = 0; round < 4000; ++round) {
      for (int i = 1; i < n; ++i) edge[i] = Density::Cell(0.5 * (level[i - 1] + level[i]));
      double moved = 0;
      for (int i = 0; i < n; ++i) {
        const double mass = density.mass[edge[i + 1]] - density.mass[edge[i]];
        if (mass <= 0) continue;
        const double centroid = (density.first[edge[i + 1]] - density.first[edge[i]]) / mass;
        moved = std::max(moved, std::abs(centroid - level[i]));
        level[i] = centroid;
      }
      if (moved < 1e-9) break;
    }
    double error = 0;
    for (int i = 0; i < n; ++i) error += IntervalError(density, edge[i], edge[i + 1], level[i]);
    tables.distortion[b] = error;
    for (int i = 0; i < n; ++i) {
      // Symmetric to the bit, whatever the rounding of the sums.
      const double value =
          i < n / 2 ? -0.5 * (level[n - 1 - i] - level[i]) : 0.5 * (level[i] - level[n - 1 - i]);
      tables.table[b].push_back(static_cast<float>(value));
    }
    SetBoundariesBetween(tables, b);
  }
  return tables;
}

LevelTables CompanderTables() {
  const double scale = 3 / std::sqrt(2.0);
  LevelTables tables;
  tables.distortion[0] = 1;
  const Density density(2);
  for (int b = 1; b <= kMaxDepth; ++b) {
    const int n = 1 << b;
    for (int i = 0; i < n; ++i) {
      tables.table[b].push_back(static_cast<float>(LaplaceQuantile((i + 0.5) / n, scale)));
      if (i > 0) {
        tables.boundary[b].push_back(
            static_cast<float>(LaplaceQuantile(static_cast<double>(i) / n, scale)));
      }
    }
    double error = 0;
    for (int i = 0; i < n; ++i) {
      const int begin = i == 0 ? 0 : Density::Cell(tables.boundary[b][i - 1]);
      const int end = i == n - 1 ? kCells : Density::Cell(tables.boundary[b][i]);
      error += IntervalError(density, begin, end, tables.table[b][i]);
    }
    tables.distortion[b] = error;
  }
  return tables;
}

}  // namespace cvxq
