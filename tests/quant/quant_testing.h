// Random numbers and small dense matrices in double, the plain side of comparisons.
#ifndef CVXQ_TESTS_QUANT_QUANT_TESTING_H_
#define CVXQ_TESTS_QUANT_QUANT_TESTING_H_

#include <cstdint>
#include <vector>

#include "base/random.h"

namespace cvxq {

// The same numbers for the same key, everywhere.
class Draws {
 public:
  explicit Draws(uint64_t key) : key_(key) {}

  uint64_t Below(uint64_t bound) { return RandomBits(key_, counter_++) % bound; }
  float Uniform(float low, float high) {
    return low + (high - low) * RandomUniform(key_, counter_++);
  }
  // Near enough to the standard normal: twelve uniform numbers less their mean.
  float Normal() {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += RandomUniform(key_, counter_++);
    return sum;
  }
  std::vector<float> Normals(int64_t n, float deviation = 1) {
    std::vector<float> values(n);
    for (float& value : values) value = deviation * Normal();
    return values;
  }

 private:
  const uint64_t key_;
  uint64_t counter_ = 0;
};

// H = X^T X / samples [n, n] of inputs in which neighbours are alike, the first columns largest.
inline std::vector<float> CorrelatedMoments(int64_t n, int64_t samples, uint64_t key) {
  Draws draws(key);
  std::vector<double> h(n * n);
  std::vector<double> x(n);
  for (int64_t s = 0; s < samples; ++s) {
    double common = 0;
    for (int64_t i = 0; i < n; ++i) {
      common = 0.9 * common + draws.Normal();
      x[i] = common * (1 + 3.0 * ((i * 7) % n) / n);
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) h[i * n + j] += x[i] * x[j] / samples;
    }
  }
  return {h.begin(), h.end()};
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_QUANT_QUANT_TESTING_H_
