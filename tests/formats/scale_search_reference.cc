#include "tests/formats/scale_search_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/dtype.h"

namespace cvxq {
namespace {

constexpr float kNoError = 0x1p126f;  // larger than any error

struct SubBlock {
  std::vector<float> x, w;
};
struct Grid {
  float step = 0, offset = 0;
};
// Of w q, w q^2, w q x for rounded levels q; and of w, w x, w x^2.
struct Sums {
  float wq = 0, wqq = 0, wqx = 0;
};
struct Totals {
  float w = 0, wx = 0, wxx = 0;
};
struct Scales {
  float d = 0, m = 0;
  std::vector<float> s, o, error;
};

float Divide(float a, float b) { return b != 0 ? a / b : 0; }

float PowerBelow(float value) {
  return std::ldexp(1.0f, std::ilogb(std::clamp(value, 0x1p-100f, 0x1p120f)));
}

float NearestHalf(float value) {
  return F16ToFloat(FloatToF16(std::clamp(value, -65504.0f, 65504.0f)));
}

// Neighbours first, then pairs of pairs: the order of the kernels.
float PairwiseSum(std::vector<float> v) {
  while (v.size() > 1) {
    for (size_t i = 0; i < v.size() / 2; ++i) v[i] = v[2 * i] + v[2 * i + 1];
    v.resize(v.size() / 2);
  }
  return v[0];
}

class Searcher {
 public:
  Searcher(const ScaleSearch& search, const float* x, const float* weight)
      : search_(search), blocks_(search.subs) {
    float size = 0, heaviest = 0;
    for (int64_t i = 0; i < search.subs * search.sub; ++i) {
      size = std::max(size, std::abs(x[i]));
      heaviest = std::max(heaviest, weight[i]);
    }
    unit_ = PowerBelow(size);
    for (int64_t i = 0; i < search.subs * search.sub; ++i) {
      SubBlock& b = blocks_[i / search.sub];
      b.x.push_back(size < 0x1p-100f ? 0 : x[i] / unit_);
      b.w.push_back((heaviest < 0x1p-100f ? 1 : weight[i] / PowerBelow(heaviest)) + 0x1p-20f);
    }
    for (const SubBlock& b : blocks_) {
      Totals& t = totals_.emplace_back();
      for (size_t i = 0; i < b.x.size(); ++i) {
        t.w += b.w[i];
        t.wx += b.w[i] * b.x[i];
        t.wxx += b.w[i] * b.x[i] * b.x[i];
      }
    }
  }

  BlockScales Run() {
    std::vector<Grid> alone;
    for (size_t j = 0; j < blocks_.size(); ++j)
      alone.push_back(SearchAlone(blocks_[j], totals_[j]));
    Scales best;
    if (search_.least == search_.most) {
      best = {Half(alone[0].step), Half(alone[0].offset), {1}, {-1}, {}};
    } else {
      best = SearchBlock(alone);
    }
    BlockScales result{.d = best.d * unit_, .m = best.m * unit_};
    for (int j = 0; j < search_.subs; ++j) {
      result.s[j] = static_cast<int16_t>(best.s[j]);
      result.o[j] = static_cast<int16_t>(best.o[j]);
    }
    return result;
  }

 private:
  float Half(float value) const { return NearestHalf(value * unit_) / unit_; }

  float RoundLevel(float t) const {
    if (search_.levels == LevelKind::kUniform) {
      return std::nearbyint(
          std::clamp(t, static_cast<float>(search_.lowest), static_cast<float>(search_.highest)));
    }
    int k = 0;
    while (k < 15 && t > (kIq4Levels[k] + kIq4Levels[k + 1]) / 2) ++k;
    return kIq4Levels[k];
  }

  Sums SumUp(const SubBlock& b, float inverse, float shift) const {
    Sums s;
    for (size_t i = 0; i < b.x.size(); ++i) {
      const float scaled = b.x[i] * inverse;
      const float q = RoundLevel(search_.has_offset ? scaled + shift : scaled);
      const float wq = b.w[i] * q;
      s.wq += wq;
      s.wqq += wq * q;
      s.wqx += wq * b.x[i];
    }
    return s;
  }

  float ErrorOf(const SubBlock& b, const Grid& g) const {
    float error = 0;
    for (size_t i = 0; i < b.x.size(); ++i) {
      const float x = search_.has_offset ? b.x[i] - g.offset : b.x[i];
      const float difference = x - g.step * RoundLevel(x * Divide(1, g.step));
      error += b.w[i] * (difference * difference);
    }
    return error;
  }

  Grid Solve(const Totals& t, const Sums& s) const {
    const float without = s.wqq > 0 ? s.wqx / s.wqq : 0;
    if (!search_.has_offset) return {without, 0};
    const float determinant = t.w * s.wqq - s.wq * s.wq;
    Grid g{0, t.wx / t.w};
    if (determinant > 1e-6f * (t.w * s.wqq)) {
      g = {(t.w * s.wqx - s.wq * t.wx) / determinant, (s.wqq * t.wx - s.wq * s.wqx) / determinant};
    }
    if (search_.most_offset > 0 && g.offset > 0) g = {without, 0};
    return {std::max(g.step, 0.0f), g.offset};
  }

  Grid SearchAlone(const SubBlock& b, const Totals& t) const {
    float low = *std::min_element(b.x.begin(), b.x.end());
    const float high = *std::max_element(b.x.begin(), b.x.end());
    if (search_.most_offset > 0) low = std::min(low, 0.0f);
    const float range = search_.has_offset ? high - low : std::max(high, -low);
    const float unit = range > 0x1p-100f ? 1 / range : 0;
    Grid best;
    float best_error = kNoError;
    const auto consider = [&](float inverse, float shift) {
      const Sums s = SumUp(b, inverse, shift);
      const Grid g = Solve(t, s);
      const float error = t.wxx + g.step * (g.step * s.wqq - 2 * s.wqx) +
                          g.offset * (g.offset * t.w + 2 * (g.step * s.wq - t.wx));
      if (error < best_error) {
        best = g;
        best_error = error;
      }
    };
    for (int i = 0; i < search_.trial_count; ++i) {
      const float inverse = search_.trials[i] * unit;
      consider(inverse, -low * inverse);
    }
    for (int i = 0; i < search_.polish; ++i) {
      const float inverse = Divide(1, best.step);
      consider(inverse, -best.offset * inverse);
    }
    return best;
  }

  float InRangeS(float s) const {
    return std::clamp(s, static_cast<float>(search_.least), static_cast<float>(search_.most));
  }
  float InRangeO(float o) const {
    return std::clamp(o, 0.0f, static_cast<float>(search_.most_offset));
  }

  void Neighbours(Scales& b) const {
    const std::vector<float> s = b.s, o = b.o;
    const int reach = search_.has_offset ? 1 : 0;
    for (size_t j = 0; j < blocks_.size(); ++j) {
      b.error[j] = kNoError;
      for (int i = -1; i <= 1; ++i) {
        for (int k = -reach; k <= reach; ++k) {
          if (i * k < 0) continue;
          const float near_s = InRangeS(s[j] + static_cast<float>(i));
          const float near_o = InRangeO(o[j] + static_cast<float>(k));
          const float error = ErrorOf(blocks_[j], {b.d * near_s, -(b.m * near_o)});
          if (error >= b.error[j]) continue;
          b.s[j] = near_s;
          b.o[j] = near_o;
          b.error[j] = error;
        }
      }
    }
  }

  void SolveBlock(Scales& b) const {
    std::vector<float> ss, sx, so, oo, ox;
    for (size_t j = 0; j < blocks_.size(); ++j) {
      const float offset = -(b.m * b.o[j]), inverse = Divide(1, b.d * b.s[j]);
      const Sums sums = SumUp(blocks_[j], inverse, -offset * inverse);
      ss.push_back(b.s[j] * b.s[j] * sums.wqq);
      sx.push_back(b.s[j] * sums.wqx);
      so.push_back(b.s[j] * b.o[j] * sums.wq);
      oo.push_back(b.o[j] * b.o[j] * totals_[j].w);
      ox.push_back(b.o[j] * totals_[j].wx);
    }
    const float a = PairwiseSum(ss), x = PairwiseSum(sx);
    if (!search_.has_offset) {
      if (a > 0) b.d = x / a;
      return;
    }
    const float c = PairwiseSum(so), e = PairwiseSum(oo), y = PairwiseSum(ox);
    const float determinant = a * e - c * c;
    if (!(determinant > 1e-6f * (a * e))) return;
    b.d = (x * e - c * y) / determinant;
    b.m = (c * x - a * y) / determinant;
  }

  Scales SearchBlock(const std::vector<Grid>& alone) const {
    float largest = 0, deepest = -INFINITY;
    for (const Grid& g : alone) {
      // Of steps of one size the positive one.
      if (std::abs(g.step) > std::abs(largest) ||
          (std::abs(g.step) == std::abs(largest) && g.step > 0)) {
        largest = g.step;
      }
      deepest = std::max(deepest, -g.offset);
    }
    Scales best;
    float best_error = kNoError;
    for (int start = 0; start < search_.start_count; ++start) {
      Scales b;
      b.error.resize(alone.size());
      b.d = largest * (1 / static_cast<float>(search_.starts[start]));
      if (search_.has_offset) b.m = deepest * (1 / static_cast<float>(search_.most_offset));
      for (int round = 0; round <= search_.rounds; ++round) {
        if (round > 0) SolveBlock(b);
        b.d = Half(b.d);
        b.m = Half(b.m);
        for (size_t j = 0; round == 0 && j < alone.size(); ++j) {
          const auto nearest = [](float t) {
            return std::nearbyint(std::clamp(t, -0x1p20f, 0x1p20f));
          };
          b.s.push_back(InRangeS(nearest(Divide(alone[j].step, b.d))));
          b.o.push_back(std::min(nearest(Divide(-alone[j].offset, b.m)),
                                 static_cast<float>(search_.most_offset)));
        }
        Neighbours(b);
        const float error = PairwiseSum(b.error);
        if (error < best_error) {
          best = b;
          best_error = error;
        }
      }
    }
    return best;
  }

  const ScaleSearch& search_;
  std::vector<SubBlock> blocks_;
  std::vector<Totals> totals_;
  float unit_ = 1;
};

}  // namespace

BlockScales SearchScalesReference(const ScaleSearch& search, const float* x, const float* weight) {
  return Searcher(search, x, weight).Run();
}

int NearestCodeReference(const float* levels, const float* edges, int level_count, float x,
                         float step, float offset) {
  const float t = (x - offset) * Divide(1, step);
  if (edges == nullptr) {
    return static_cast<int>(std::nearbyint(std::clamp(t, levels[0], levels[level_count - 1])) -
                            levels[0]);
  }
  int code = 0;
  while (code + 1 < level_count && t > edges[code]) ++code;
  return code;
}

}  // namespace cvxq
