#include "formats/float_types.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "formats/float_codes.h"
#include "formats/grid_coder.h"

namespace cvxq {
namespace {

std::vector<float> Normals(int64_t n, float size, uint64_t seed) {
  std::vector<float> x;
  for (int64_t i = 0; i < n; ++i) {
    float sum = -6;
    for (int k = 0; k < 12; ++k) sum += RandomUniform(DeriveKey(seed, i), k);
    x.push_back(size * sum);
  }
  return x;
}

double ErrorOf(const std::vector<float>& x, const std::vector<float>& weight, float scale) {
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = static_cast<double>(E4M3ToFloat(FloatToE4M3(x[i] / scale))) * scale;
    error += weight[i] * (x[i] - value) * (x[i] - value);
  }
  return error;
}

TEST(Fp8Type, TakesTheBestOfManyScales) {
  const std::vector<float> weight(100, 1.0f);
  double found = 0, best = 0, plain = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const std::vector<float> x = Normals(100, 0.02f, seed);
    float largest = 0;
    for (const float value : x) largest = std::max(largest, std::fabs(value));
    const Fp8Type type(100, DType::kBF16);
    uint8_t fields[2];
    float step;
    type.Fit(x.data(), weight.data(), 1, 1, fields, &step, nullptr);
    found += ErrorOf(x, weight, step);
    plain += ErrorOf(x, weight, BF16ToFloat(FloatToBF16(largest / 448)));
    double least = 1e30;
    for (int k = -10; k < 128; ++k) {
      const float scale = largest / 448 * std::exp2(static_cast<float>(k) / 100);
      least = std::min(least, ErrorOf(x, weight, BF16ToFloat(FloatToBF16(scale))));
    }
    best += least;
  }
  EXPECT_LT(found, 1.06 * best);
  EXPECT_LT(found, 0.97 * plain);
}

// Of every size that E4M3 has, and beyond: no neighbour of the code is nearer.
TEST(Fp8Type, CodesAreTheNearest) {
  std::vector<float> x = {0.0f, -0.0f, 500.0f, -500.0f};
  for (int k = 0; k < 4092; ++k) {
    const float size = std::exp2(static_cast<float>(k) / 200 - 11.5f);
    x.push_back(k % 2 == 0 ? size : -size);
  }
  const auto columns = static_cast<int64_t>(x.size());
  const Fp8Type type(columns, DType::kBF16);
  ThreadPool pool(1);
  const GridMatrix coded = CodeNearest({.w = x.data(), .rows = 1, .columns = columns}, type, pool);
  const std::span<const float> levels = type.levels();
  std::vector<bool> used(levels.size());
  for (int64_t c = 0; c < columns; ++c) {
    const size_t code = coded.codes[c];
    ASSERT_LT(code, levels.size());
    used[code] = true;
    const float target = x[c] / coded.step[0], error = std::fabs(target - levels[code]);
    for (const size_t other : {code - 1, code + 1}) {
      if (other >= levels.size()) continue;
      EXPECT_LE(error, std::fabs(target - levels[other]) * 1.0001f) << x[c];
    }
  }
  EXPECT_GT(std::count(used.begin(), used.end(), true), 240);
}

TEST(Fp8Type, RowsOfNothing) {
  const std::vector<float> zero(32, 0.0f);
  for (const DType scale : {DType::kF16, DType::kBF16}) {
    const Fp8Type type(32, scale);
    uint8_t fields[2];
    float step;
    type.Fit(zero.data(), zero.data(), 1, 1, fields, &step, nullptr);
    EXPECT_GT(step, 0);
  }
}

TEST(Fp4Type, TheScaleOfAMatrixIsAPowerOfTwo) {
  const Fp4Type type(Fp4Type::Kind::kNvfp4);
  for (const float largest : {1e-3f, 0.37f, 2688.0f, 5000.0f}) {
    const float scale = type.MatrixScale(largest);
    EXPECT_EQ(std::exp2(std::round(std::log2(scale))), scale);
    EXPECT_GE(448 * 6 * scale, largest);
    EXPECT_LT(448 * 3 * scale, largest);
  }
  EXPECT_EQ(Fp4Type(Fp4Type::Kind::kMxfp4).MatrixScale(7), 1);
}

TEST(Fp4Type, MatricesThatShareAScale) {
  const Fp4Type type(Fp4Type::Kind::kNvfp4, /*largest=*/5.0f);
  EXPECT_EQ(type.MatrixScale(0.1f), type.MatrixScale(5.0f));
  EXPECT_EQ(type.MatrixScale(0.1f), Fp4Type(Fp4Type::Kind::kNvfp4).MatrixScale(5.0f));
}

// GGUF's blocks of the same type hold four of these: seven blocks are one and a part of another.
TEST(Fp4Type, BlocksDoNotDependOnHowManyThereAre) {
  const std::vector<float> x = Normals(7 * 16, 0.02f, 2), weight(x.size(), 1.0f);
  const Fp4Type type(Fp4Type::Kind::kNvfp4);
  const float scale = type.MatrixScale(0.1f);
  std::vector<uint8_t> all(7), one(7);
  std::vector<float> step(7), one_step(7);
  type.Fit(x.data(), weight.data(), 7, scale, all.data(), step.data(), nullptr);
  for (int b = 0; b < 7; ++b) {
    type.Fit(&x[16 * b], &weight[16 * b], 1, scale, &one[b], &one_step[b], nullptr);
    EXPECT_EQ(step[b], 0.5f * E4M3ToFloat(all[b]) * scale);
  }
  EXPECT_EQ(all, one);
  EXPECT_EQ(step, one_step);
}

}  // namespace
}  // namespace cvxq
