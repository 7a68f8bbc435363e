// Packed and scaled matrices on the GPU against the plain decoders, over odd shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "tests/kernels/packed_test_matrix.h"
#include "tests/kernels/scaled_test_matrix.h"

namespace cvxq {
namespace {

// Null where there is no GPU.
Backend* Gpu() {
  static StatusOr<std::unique_ptr<Backend>>* const backend =
      new StatusOr<std::unique_ptr<Backend>>(MakeCudaBackend());
  return backend->ok() ? (*backend)->get() : nullptr;
}

class CudaPackedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Gpu() == nullptr) GTEST_SKIP() << MakeCudaBackend().status().message();
  }
};

std::vector<float> RandomFloats(int64_t count, uint64_t key) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = 2 * RandomUniform(key, i) - 1;
  return values;
}

Tensor OnGpu(const std::vector<float>& values, Shape shape) {
  Tensor tensor = Gpu()->Allocate(DType::kF32, std::move(shape));
  Gpu()->Upload(values.data(), tensor);
  return tensor;
}

// y[n, M] of x[n, N]; an empty bias is none.
std::vector<float> Multiply(const PackedWeight& weight, const std::vector<float>& x, int64_t n,
                            const std::vector<float>& bias) {
  const Tensor y = Gpu()->Allocate(DType::kF32, {n, weight.rows});
  Gpu()->PackedLinear(OnGpu(x, {n, weight.columns}), weight,
                      bias.empty() ? Tensor() : OnGpu(bias, {weight.rows}), y);
  std::vector<float> values(n * weight.rows);
  Gpu()->Download(y, values.data());
  return values;
}

void ExpectUnpacks(const PackedWeight& weight, const std::vector<float>& expected) {
  const Shape shape = {weight.rows, weight.columns};
  const Tensor exact = Gpu()->Allocate(DType::kF32, shape),
               rounded = Gpu()->Allocate(DType::kBF16, shape);
  Gpu()->Unpack(weight, exact);
  Gpu()->Unpack(weight, rounded);
  std::vector<uint32_t> bits(expected.size());
  std::vector<uint16_t> rounded_bits(expected.size());
  Gpu()->Download(exact, bits.data());
  Gpu()->Download(rounded, rounded_bits.data());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(bits[i], std::bit_cast<uint32_t>(expected[i])) << "weight " << i;
    ASSERT_EQ(rounded_bits[i], FloatToBF16(expected[i])) << "weight " << i;
  }
}

double ToBF16(float value) { return BF16ToFloat(FloatToBF16(value)); }

// What a product sums up, in double: each term as the operation may round it.
struct Terms {
  std::vector<double> sum, magnitude;  // [n, M]
};
using Term = double (*)(float x, float scale, float level, float mean);

double ExactTerm(float x, float scale, float level, float mean) {
  return double{x} * (scale * level + mean);
}
double CodesTerm(float x, float scale, float level, float mean) {
  return ToBF16(x * scale) * ToBF16(level) + double{x} * mean;
}
double DecodedTerm(float x, float scale, float level, float mean) {
  return ToBF16(x) * ToBF16(scale * level + mean);
}

// As one vector is multiplied: to integers of which the largest is 127 * 256 + 127.
void RoundTo16Bits(std::vector<float>& table) {
  float most = 0;
  for (const float value : table) most = std::max(most, std::abs(value));
  const float unit = most / (127 * 256 + 127);
  for (float& value : table) value = unit == 0 ? 0 : unit * std::nearbyint(value / unit);
}

// levels[M, N]: the values of the tables.
Terms SumTerms(const PackedMatrix& matrix, const std::vector<float>& levels,
               const std::vector<float>& x, int64_t n, const std::vector<float>& bias, Term term) {
  const int64_t M = matrix.rows, N = matrix.columns;
  const bool by_columns = matrix.partition == Partition::kColumns;
  Terms terms{std::vector<double>(n * M), std::vector<double>(n * M, 1)};
  std::vector<int64_t> cluster(matrix.member_count());
  for (size_t i = 0; i < cluster.size(); ++i) cluster[matrix.members[i]] = i / matrix.cluster_size;
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t t = 0; t < n && !bias.empty(); ++t) terms.sum[t * M + m] = bias[m];
    for (int64_t j = 0; j < N; ++j) {
      const int64_t g = by_columns ? cluster[m] * N + j : cluster[j] * M + m;
      const float mean = matrix.mean.empty() ? 0 : matrix.mean[g];
      for (int64_t t = 0; t < n; ++t) {
        const double value = term(x[t * N + j], matrix.scale[g], levels[m * N + j], mean);
        terms.sum[t * M + m] += value;
        terms.magnitude[t * M + m] += std::abs(value);
      }
    }
  }
  return terms;
}

std::string Describe(const RandomPackedSpec& spec) {
  return absl::StrCat(spec.rows, " x ", spec.columns, ", clusters of ", spec.cluster_size, " ",
                      spec.partition == Partition::kColumns ? "rows" : "columns",
                      spec.means ? " with" : " without", " means, depths ", spec.min_depth, "..",
                      spec.max_depth);
}

// The product and the decoded matrix of one matrix, for one batch and both computes.
void ExpectMatrix(const RandomPackedSpec& spec, int64_t n, uint64_t key) {
  SCOPED_TRACE(absl::StrCat(Describe(spec), ", n ", n));
  const PackedMatrix matrix = RandomPackedMatrix(spec, key);
  ASSERT_TRUE(matrix.Validate().ok()) << matrix.Validate();
  const bool by_columns = spec.partition == Partition::kColumns;
  PackedMatrix plain = matrix;
  plain.scale.assign(plain.scale.size(), 1);
  plain.mean.clear();
  const std::vector<float> levels = Decode(plain);
  for (std::vector<float>& table : plain.table) RoundTo16Bits(table);
  const std::vector<float> rounded_levels = Decode(plain);
  const std::vector<float> x = RandomFloats(n * spec.columns, key + 1);
  const std::vector<float> bias =
      key % 2 == 0 ? RandomFloats(spec.rows, key + 2) : std::vector<float>();
  for (DType compute : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(Name(compute));
    const auto weight = Gpu()->ImportPacked(matrix, compute);
    ASSERT_NO_FATAL_FAILURE(ExpectUnpacks(*weight, Decode(matrix)));
    const bool in_bf16 = compute == DType::kBF16;
    const bool on_tensor_cores = in_bf16 && n <= 8 && by_columns && spec.columns <= 1 << 16;
    const bool in_integers = on_tensor_cores && n == 1;
    Term term = ExactTerm;
    if (in_bf16 && n > 8) term = DecodedTerm;
    if (on_tensor_cores && n > 1) term = CodesTerm;
    const Terms expected =
        SumTerms(matrix, in_integers ? rounded_levels : levels, x, n, bias, term);
    const std::vector<float> y = Multiply(*weight, x, n, bias);
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(y[i], expected.sum[i], 3e-6 * expected.magnitude[i])
          << "row " << i % spec.rows << " of vector " << i / spec.rows;
    }
  }
  const Status status = Gpu()->Synchronize();
  ASSERT_TRUE(status.ok()) << status;
}

TEST_F(CudaPackedTest, OddShapes) {
  const int64_t batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 33};
  uint64_t key = 0;
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    for (int64_t rows : {1, 37, 70}) {
      for (int64_t columns : {1, 33, 257}) {
        for (int64_t cluster_size : {1, 13, 16, 64}) {
          ++key;
          ASSERT_NO_FATAL_FAILURE(ExpectMatrix(
              {rows, columns, cluster_size, partition, key % 3 != 0}, batches[key % 10], 10 * key));
        }
      }
    }
  }
}

TEST_F(CudaPackedTest, EachDepthAlone) {
  for (int depth = 0; depth <= kMaxDepth; ++depth) {
    ASSERT_NO_FATAL_FAILURE(ExpectMatrix(
        {20, 301, 64, Partition::kColumns, depth % 2 == 0, depth, depth}, 1 + depth % 8, depth));
  }
}

TEST_F(CudaPackedTest, TilesOfSeveralStrips) {
  for (int64_t n : {1, 2}) {
    ASSERT_NO_FATAL_FAILURE(ExpectMatrix({64 * 3, 80, 64, Partition::kColumns, false, 3, 3}, n, 2));
    ASSERT_NO_FATAL_FAILURE(ExpectMatrix({32 * 5, 150, 32, Partition::kColumns, true, 1, 4}, n, 3));
    ASSERT_NO_FATAL_FAILURE(ExpectMatrix({128, 300, 128, Partition::kColumns, true, 0, 8}, n, 4));
  }
}

// Few tiles of many lines: many warps share one, each with several steps.
TEST_F(CudaPackedTest, SharedTiles) {
  for (int64_t n : {1, 5}) {
    ASSERT_NO_FATAL_FAILURE(
        ExpectMatrix({20, 9000, 16, Partition::kColumns, true, 0, 4}, n, 6 + n));
    ASSERT_NO_FATAL_FAILURE(
        ExpectMatrix({64, 20000, 64, Partition::kColumns, false, 3, 3}, n, 8 + n));
  }
}

// Many tiles of few lines: a warp goes through several, some of which have no lines.
TEST_F(CudaPackedTest, ManyTiles) {
  ASSERT_NO_FATAL_FAILURE(ExpectMatrix({16 * 300, 5, 16, Partition::kColumns, false, 0, 1}, 1, 11));
  ASSERT_NO_FATAL_FAILURE(ExpectMatrix({16 * 300, 70, 16, Partition::kColumns, true, 0, 2}, 3, 12));
}

TEST_F(CudaPackedTest, MoreColumnsThanFitSixteenBits) {
  ASSERT_NO_FATAL_FAILURE(ExpectMatrix({2, 70001, 16, Partition::kColumns, true, 1, 2}, 2, 4));
}

// A vector of which later elements are larger: integers are made of them with other exponents.
TEST_F(CudaPackedTest, ElementsOfAllSizes) {
  constexpr int64_t M = 40, N = 3000;
  const PackedMatrix matrix = RandomPackedMatrix({M, N, 64, Partition::kColumns, true, 1, 8}, 3);
  const std::vector<float> weights = Decode(matrix);
  const auto weight = Gpu()->ImportPacked(matrix, DType::kBF16);
  std::vector<float> x(N);
  for (const float most : {1e-20f, 1.0f, 1e20f}) {
    for (int64_t j = 0; j < N; ++j) {
      x[j] = (j % 3 == 0 ? -most : most) * std::exp2(static_cast<float>(j) / 50 - 60);
    }
    const std::vector<float> y = Multiply(*weight, x, 1, {});
    for (int64_t m = 0; m < M; ++m) {
      double sum = 0, magnitude = 0;
      for (int64_t j = 0; j < N; ++j) {
        sum += double{weights[m * N + j]} * x[j];
        magnitude += std::abs(double{weights[m * N + j]} * x[j]);
      }
      ASSERT_NEAR(y[m], sum, 1e-3 * magnitude) << "row " << m << ", most " << most;
    }
  }
  const std::vector<float> zeros = Multiply(*weight, std::vector<float>(N), 1, {});
  for (const float value : zeros) EXPECT_EQ(value, 0);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    x.assign(N, 1.0f);
    x[N / 2] = bad;
    for (const float value : Multiply(*weight, x, 1, {})) EXPECT_FALSE(std::isfinite(value));
  }
}

TEST_F(CudaPackedTest, SameBitsInAnyBatch) {
  constexpr int64_t M = 50, N = 1100, n = 8;
  const std::vector<float> x = RandomFloats(n * N, 1);
  for (DType compute : {DType::kF32, DType::kBF16}) {
    std::vector<std::shared_ptr<PackedWeight>> weights;
    for (Partition partition : {Partition::kColumns, Partition::kRows}) {
      weights.push_back(
          Gpu()->ImportPacked(RandomPackedMatrix({M, N, 16, partition, true, 0, 5}, 7), compute));
    }
    weights.push_back(Gpu()->ImportPacked(
        std::make_shared<const ScaledMatrix>(RandomScaledMatrix(M, N, 100, 8)), compute));
    for (size_t w = 0; w < weights.size(); ++w) {
      const std::vector<float> all = Multiply(*weights[w], x, n, {});
      // On tensor cores a row that is alone is computed in integers.
      for (int64_t batch : {compute == DType::kBF16 && w == 0 ? 2 : 1, 3}) {
        for (int64_t t = 0; t + batch <= n; t += batch) {
          const std::vector<float> some(x.begin() + t * N, x.begin() + (t + batch) * N);
          const std::vector<float> y = Multiply(*weights[w], some, batch, {});
          for (int64_t i = 0; i < batch * M; ++i) {
            ASSERT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(all[t * M + i]))
                << "weight " << w << " batch " << batch;
          }
        }
      }
    }
  }
}

// Values where a fused or reordered decoder would differ: zeros of both signs, infinities from
// overflow, subnormal numbers.
TEST_F(CudaPackedTest, UnpackingKeepsOddValues) {
  constexpr float kOdd[] = {0.0f, -0.0f, 3e38f, -3e38f, 1e-40f, 1.00390625f, 1e-30f, -7e-39f};
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    for (bool means : {false, true}) {
      PackedMatrix matrix = RandomPackedMatrix({40, 60, 16, partition, means}, 7);
      for (auto* values : {&matrix.scale, &matrix.mean, &matrix.table[3], &matrix.table[5]}) {
        for (size_t i = 0; i < values->size(); ++i) (*values)[i] = kOdd[RandomBits(9, i) % 8];
      }
      const auto weight = Gpu()->ImportPacked(matrix, DType::kF32);
      ASSERT_NO_FATAL_FAILURE(ExpectUnpacks(*weight, Decode(matrix)));
    }
  }
}

// Lines that fill up a run add nothing, whatever x and the tables are.
TEST_F(CudaPackedTest, WhatFillsUpAddsNothing) {
  PackedMatrix matrix = RandomPackedMatrix({16, 3, 16, Partition::kColumns, false, 2, 2}, 3);
  matrix.table[2] = {3.4e38f, 1, 2, 3};            // that rounds to infinity
  for (uint8_t& byte : matrix.codes) byte = 0x55;  // all codes 1
  const auto weight = Gpu()->ImportPacked(matrix, DType::kBF16);
  for (float value : Multiply(*weight, {1, 1, 1}, 1, {})) EXPECT_TRUE(std::isfinite(value));
}

TEST_F(CudaPackedTest, NothingIsNothing) {
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    for (int64_t rows : {0, 3}) {
      PackedMatrix matrix;
      matrix.rows = rows;
      matrix.columns = rows == 0 ? 5 : 0;
      matrix.partition = partition;
      matrix.cluster_size = 16;
      for (int64_t i = 0; i < matrix.member_count(); ++i) {
        matrix.members.push_back(static_cast<int32_t>(i));
      }
      const int64_t groups = matrix.cluster_count() * matrix.line_count();
      matrix.depth.assign(groups, 0);
      matrix.scale.assign(groups, 1);
      const auto weight = Gpu()->ImportPacked(matrix, DType::kBF16);
      ExpectUnpacks(*weight, {});
      for (int64_t n : {1, 9}) {
        const std::vector<float> x(n * matrix.columns, 1), bias(rows, 2);
        EXPECT_EQ(Multiply(*weight, x, n, bias), std::vector<float>(n * rows, 2));
      }
    }
  }
}

TEST_F(CudaPackedTest, ScaledMatrices) {
  uint64_t key = 0;
  for (int64_t rows : {1, 9, 70}) {
    for (int64_t columns : {1, 130, 514, 1100}) {
      for (int64_t n : {1, 2, 8, 9}) {
        SCOPED_TRACE(absl::StrCat(rows, " x ", columns, ", n ", n));
        const auto matrix =
            std::make_shared<const ScaledMatrix>(RandomScaledMatrix(rows, columns, 40, ++key));
        const std::vector<float> w = Decode(*matrix), x = RandomFloats(n * columns, 50 + key),
                                 bias = RandomFloats(rows, 90 + key);
        const auto weight = Gpu()->ImportPacked(matrix, DType::kF32);
        ASSERT_NO_FATAL_FAILURE(ExpectUnpacks(*weight, w));
        const std::vector<float> y = Multiply(*weight, x, n, bias);
        for (int64_t i = 0; i < n * rows; ++i) {
          double sum = bias[i % rows], magnitude = 1;
          for (int64_t j = 0; j < columns; ++j) {
            const double term = double{x[i / rows * columns + j]} * w[i % rows * columns + j];
            sum += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(y[i], sum, 3e-6 * magnitude) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
