#include "quant/feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

constexpr float kStep = 0.25f;

float Nearest(float value) { return kStep * std::round(value / kStep); }

CurvatureFactor Factor(const std::vector<float>& h, int64_t n) {
  StatusOr<CurvatureFactor> factor = FactorCurvature(h, n, 0.01);
  EXPECT_TRUE(factor.ok()) << factor.status();
  return *std::move(factor);
}

// tr(E H E^T) of a slab [n][rows].
double Distortion(const std::vector<float>& w, const std::vector<float>& rounded,
                  const std::vector<float>& h, int64_t rows, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double product = 0;
      for (int64_t r = 0; r < rows; ++r) {
        product += (static_cast<double>(rounded[i * rows + r]) - w[i * rows + r]) *
                   (static_cast<double>(rounded[j * rows + r]) - w[j * rows + r]);
      }
      sum += product * h[i * n + j];
    }
  }
  return sum;
}

// Targets are compared with the plain recursion in double, given the roundings that were made: a
// value near the middle of two levels may fall either way, and this must not count as a difference.
TEST(Feedback, TargetsFollowTheRecursion) {
  constexpr int64_t kRows = 5;
  for (const int64_t n : {1, 2, 63, 64, 65, 130}) {
    const CurvatureFactor factor = Factor(CorrelatedMoments(n, 3 * n + 5, n), n);
    Draws draws(n);
    const std::vector<float> w = draws.Normals(n * kRows);
    std::vector<float> rounded = w;
    std::vector<double> error(n * kRows);  // [place][rows]
    int64_t place = n - 1;                 // columns come in the order of the factor, from the last
    RoundWithFeedback(
        &factor, kRows, n, rounded.data(), [&](int64_t column, const float* target, float* out) {
          ASSERT_GE(place, 0);
          ASSERT_EQ(column, factor.order[place]);
          for (int64_t r = 0; r < kRows; ++r) {
            double expected = w[column * kRows + r];
            for (int64_t later = place + 1; later < n; ++later) {
              expected -= error[later * kRows + r] * factor.lower[later * n + place];
            }
            EXPECT_NEAR(target[r], expected, 2e-4);
            out[r] = Nearest(target[r]);
            error[place * kRows + r] = static_cast<double>(out[r]) - w[column * kRows + r];
          }
          --place;
        });
    EXPECT_EQ(place, -1);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = 0; r < kRows; ++r) {
        EXPECT_EQ(rounded[factor.order[i] * kRows + r],
                  static_cast<float>(error[i * kRows + r] + w[factor.order[i] * kRows + r]));
      }
    }
  }
}

TEST(Feedback, LowersTheDistortionOfCorrelatedInputs) {
  constexpr int64_t kRows = 16;
  for (const int64_t n : {10, 100, 200}) {
    const std::vector<float> h = CorrelatedMoments(n, 4 * n, n);
    const CurvatureFactor factor = Factor(h, n);
    Draws draws(n);
    const std::vector<float> w = draws.Normals(n * kRows);
    const auto round = [](int64_t, const float* target, float* out) {
      for (int64_t r = 0; r < kRows; ++r) out[r] = Nearest(target[r]);
    };
    std::vector<float> plain = w, fed = w;
    RoundWithFeedback(nullptr, kRows, n, plain.data(), round);
    RoundWithFeedback(&factor, kRows, n, fed.data(), round);
    EXPECT_LT(Distortion(w, fed, h, kRows, n), 0.6 * Distortion(w, plain, h, kRows, n)) << n;
  }
}

TEST(Feedback, WithoutCorrelationItIsPlainRounding) {
  constexpr int64_t kRows = 3, kN = 70;
  std::vector<float> h(kN * kN, 0.0f);
  for (int64_t i = 0; i < kN; ++i) h[i * kN + i] = 1 + (i * 5) % 7;
  const CurvatureFactor factor = Factor(h, kN);
  Draws draws(1);
  const std::vector<float> w = draws.Normals(kN * kRows);
  std::vector<float> fed = w;
  RoundWithFeedback(&factor, kRows, kN, fed.data(), [](int64_t, const float* target, float* out) {
    for (int64_t r = 0; r < kRows; ++r) out[r] = Nearest(target[r]);
  });
  for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(fed[i], Nearest(w[i]));
}

TEST(Feedback, NoFactorRoundsColumnsAsTheyAreInOrder) {
  constexpr int64_t kRows = 4, kN = 70;
  Draws draws(2);
  const std::vector<float> w = draws.Normals(kN * kRows);
  std::vector<float> rounded = w;
  int64_t next = 0;
  RoundWithFeedback(nullptr, kRows, kN, rounded.data(),
                    [&](int64_t column, const float* target, float* out) {
                      EXPECT_EQ(column, next++);
                      for (int64_t r = 0; r < kRows; ++r) {
                        EXPECT_EQ(target[r], w[column * kRows + r]);
                        out[r] = Nearest(target[r]);
                      }
                    });
  EXPECT_EQ(next, kN);
  for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(rounded[i], Nearest(w[i]));
}

}  // namespace
}  // namespace cvxq
