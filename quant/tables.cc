#include "quant/tables.h"

#include <algorithm>
#include <cmath>

namespace cvxq {
namespace {

constexpr int kRounds = 4000;

// Of a density, up to some point.
struct Moments {
  double mass, first, second;
  Moments operator-(const Moments &other) const {
    return {mass - other.mass, first - other.first, second - other.second};
  }
  // Mean squared error of one level for all of it.
  double Error(double level) const { return second - 2 * level * first + level * level * mass; }
};

// A density on [-kReach, kReach], constant in each of many small cells: the
// moments of any interval are those of whole cells and two parts of cells.
class Density {
 public:
  explicit Density(double shape) {
    // Unit variance: a^2 = Gamma(1/shape) / Gamma(3/shape).
    const double a = std::exp(0.5 * (std::lgamma(1 / shape) - std::lgamma(3 / shape)));
    double total = 0;
    for (int i = 0; i < kCells; ++i) {
      const double x = (i + 0.5) * kWidth - kReach;
      mass_[i] = std::exp(-std::pow(std::abs(x) / a, shape));
      total += mass_[i];
    }
    for (int i = 0; i < kCells; ++i) {
      mass_[i] /= total;
      const Moments cell = Part(i, 1);
      below_[i + 1] = {below_[i].mass + cell.mass, below_[i].first + cell.first,
                       below_[i].second + cell.second};
    }
  }

  Moments All() const { return below_[kCells]; }
  Moments Below(double x) const {
    const double position = std::clamp((x + kReach) / kWidth, 0.0, kCells - 1e-6);
    const int i = static_cast<int>(position);
    const Moments part = Part(i, position - i);
    return {below_[i].mass + part.mass, below_[i].first + part.first,
            below_[i].second + part.second};
  }

  // n points at the quantiles (i + 1/2) / n of the cube root of the density:
  // where the levels of the best quantiser lie at high rate (Panter and Dite
  // 1951).
  std::vector<double> CubeRootQuantiles(int n) const {
    double total = 0;
    for (const double mass : mass_) total += std::cbrt(mass);
    std::vector<double> points;
    double sum = 0;
    for (int i = 0; i < kCells; ++i) {
      const double share = std::cbrt(mass_[i]) / total;
      for (; static_cast<int>(points.size()) < n; points.push_back((i + 0.5) * kWidth - kReach)) {
        if (sum + share < (points.size() + 0.5) / n) break;
      }
      sum += share;
    }
    return points;
  }

 private:
  static constexpr int kCells = 1 << 16;
  static constexpr double kReach = 24, kWidth = 2 * kReach / kCells;

  // The lowest `share` of a cell.
  Moments Part(int cell, double share) const {
    const double low = cell * kWidth - kReach, part = share * kWidth, mass = mass_[cell] * share;
    return {mass, mass * (low + part / 2), mass * (low * low + low * part + part * part / 3)};
  }

  std::vector<double> mass_ = std::vector<double>(kCells);
  std::vector<Moments> below_ = std::vector<Moments>(kCells + 1);
};

void SetBoundariesBetween(LevelTables &tables, int b) {
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
  const std::vector<float> &edges = boundary[depth];
  return static_cast<uint8_t>(std::upper_bound(edges.begin(), edges.end(), value) - edges.begin());
}

LevelTables LloydMaxTables(double shape) {
  const Density density(shape);
  LevelTables tables;
  tables.distortion[0] = 1;
  for (int b = 1; b <= kMaxDepth; ++b) {
    const int n = 1 << b;
    // From where the optimum lies at high rate, alternate midpoints and
    // centroids.
    std::vector<double> level = density.CubeRootQuantiles(n);
    std::vector<Moments> interval(n);
    for (int round = 0; round < kRounds; ++round) {
      Moments below{};
      for (int i = 0; i < n; ++i) {
        const Moments next =
            i == n - 1 ? density.All() : density.Below(0.5 * (level[i] + level[i + 1]));
        interval[i] = next - below;
        below = next;
      }
      double moved = 0;
      for (int i = 0; i < n; ++i) {
        const double centroid = interval[i].first / interval[i].mass;
        moved = std::max(moved, std::abs(centroid - level[i]));
        level[i] = centroid;
      }
      if (moved < 1e-9) break;
    }
    double error = 0;
    for (int i = 0; i < n; ++i) error += interval[i].Error(level[i]);
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
    Moments below{};
    for (int i = 0; i < n; ++i) {
      const Moments next = i == n - 1 ? density.All() : density.Below(tables.boundary[b][i]);
      error += (next - below).Error(tables.table[b][i]);
      below = next;
    }
    tables.distortion[b] = error;
  }
  return tables;
}

}  // namespace cvxq
