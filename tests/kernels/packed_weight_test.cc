// Packed matrices on the CPU against the plain decoder, with every instruction set this CPU has.
#include "kernels/cpu/packed_weight.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "gtest/gtest.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/packed_matrix.h"
#include "tensor/dtype.h"
#include "tests/kernels/packed_test_matrix.h"

namespace cvxq {
namespace {

std::vector<PackedIsa> SupportedIsas() {
  std::vector<PackedIsa> isas;
  for (PackedIsa isa :
       {PackedIsa::kBaseline, PackedIsa::kAvx2, PackedIsa::kAvx512, PackedIsa::kAvx512Bf16}) {
    if (IsSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

std::vector<float> RandomFloats(int64_t count, uint64_t key) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = 2 * RandomUniform(key, i) - 1;
  return values;
}

std::string Describe(const RandomPackedSpec& spec) {
  return absl::StrCat(spec.rows, " x ", spec.columns, ", clusters of ", spec.cluster_size, " ",
                      spec.partition == Partition::kColumns ? "rows" : "columns",
                      spec.means ? " with" : " without", " means, depths ", spec.min_depth, "..",
                      spec.max_depth);
}

// Odd sizes with all depths mixed, then each depth alone.
std::vector<RandomPackedSpec> Specs() {
  std::vector<RandomPackedSpec> specs;
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    for (bool means : {false, true}) {
      for (int64_t rows : {1, 5, 16, 63, 100}) {
        for (int64_t columns : {1, 3, 33, 257}) {
          for (int64_t cluster_size : {1, 8, 13, 64, 256}) {
            specs.push_back({rows, columns, cluster_size, partition, means});
          }
        }
      }
      for (int depth = 0; depth <= kMaxDepth; ++depth) {
        specs.push_back({70, 101, 64, partition, means, depth, depth});
      }
    }
  }
  return specs;
}

// Checks y[n,M] against the product in double, with an error allowed for float sums.
void ExpectProduct(const std::vector<float>& w, const std::vector<float>& x, int64_t n,
                   const float* bias, const std::vector<float>& y, int64_t M, int64_t N) {
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t m = 0; m < M; ++m) {
      double sum = bias == nullptr ? 0 : bias[m], magnitude = 1;
      for (int64_t j = 0; j < N; ++j) {
        const double term = double{w[m * N + j]} * x[t * N + j];
        sum += term;
        magnitude += std::abs(term);
      }
      ASSERT_NEAR(y[t * M + m], sum, 2e-6 * magnitude) << "row " << m << " of token " << t;
    }
  }
}

double RoundToBF16(float value) { return BF16ToFloat(FloatToBF16(value)); }

// Checks y[n,M] of a weight with strips in pairs: against the same product in double, from levels
// and x * scale rounded to BF16 where the depth has pairs, and against the exact product with the
// error that these two roundings may have, 2^-7 and a little of each term.
void ExpectPairProduct(const PackedMatrix& matrix, const std::vector<float>& x, int64_t n,
                       const float* bias, const std::vector<float>& y) {
  const int64_t M = matrix.rows, N = matrix.columns;
  PackedMatrix plain = matrix;
  plain.scale.assign(plain.scale.size(), 1);
  plain.mean.clear();
  const std::vector<float> levels = Decode(plain);
  for (int64_t i = 0; i < M; ++i) {
    const int64_t m = matrix.members[i], groups = i / matrix.cluster_size * N;
    for (int64_t t = 0; t < n; ++t) {
      double exact = bias == nullptr ? 0 : bias[m], rounded = exact;
      double magnitude = 1, rounded_magnitude = 0;
      for (int64_t j = 0; j < N; ++j) {
        const int64_t g = groups + j;
        const float level = levels[m * N + j], x_value = x[t * N + j];
        const double term = double{x_value} * matrix.scale[g] * level;
        const double mean = matrix.mean.empty() ? 0 : double{x_value} * matrix.mean[g];
        exact += term + mean;
        magnitude += std::abs(term) + std::abs(mean);
        if (matrix.depth[g] <= kMaxPairDepth) {
          rounded += RoundToBF16(x_value * matrix.scale[g]) * RoundToBF16(level) + mean;
          rounded_magnitude += std::abs(term);
        } else {
          rounded += term + mean;
        }
      }
      ASSERT_NEAR(y[t * M + m], rounded, 2e-6 * magnitude) << "row " << m << " of token " << t;
      ASSERT_NEAR(y[t * M + m], exact, 2e-6 * magnitude + 0.00783 * rounded_magnitude)
          << "row " << m << " of token " << t;
    }
  }
}

TEST(PackedWeightTest, ProductsAndUnpackingMatchTheDecoder) {
  ThreadPool pool(2);
  uint64_t key = 0;
  for (const RandomPackedSpec& spec : Specs()) {
    SCOPED_TRACE(Describe(spec));
    const int64_t M = spec.rows, N = spec.columns, n = 1 + static_cast<int64_t>(key % 9);
    const PackedMatrix matrix = RandomPackedMatrix(spec, ++key);
    ASSERT_TRUE(matrix.Validate().ok()) << matrix.Validate();
    const std::vector<float> w = Decode(matrix);
    const std::vector<float> x = RandomFloats(n * N, ++key), bias = RandomFloats(M, ++key);
    for (PackedIsa isa : SupportedIsas()) {
      SCOPED_TRACE(static_cast<int>(isa));
      const auto weight = MakeCpuPackedWeight(matrix, isa);
      std::vector<float> y(n * M, NAN);
      const float* b = key % 2 == 0 ? bias.data() : nullptr;
      PackedProduct(*weight, x.data(), n, b, y.data(), pool);
      if (weight->pairs == nullptr) {
        ASSERT_NO_FATAL_FAILURE(ExpectProduct(w, x, n, b, y, M, N));
      } else {
        ASSERT_NO_FATAL_FAILURE(ExpectPairProduct(matrix, x, n, b, y));
      }

      std::vector<float> unpacked(M * N, NAN);
      UnpackToFloat(*weight, unpacked.data(), pool);
      std::vector<uint16_t> unpacked_bf16(M * N, 0xffff);
      UnpackToBF16(*weight, unpacked_bf16.data(), pool);
      for (int64_t i = 0; i < M * N; ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(unpacked[i]), std::bit_cast<uint32_t>(w[i])) << i;
        ASSERT_EQ(unpacked_bf16[i], FloatToBF16(w[i])) << i;
      }
    }
  }
}

// Values where a fused or reordered decoder would differ: zeros of both signs, infinities from
// overflow, subnormal numbers, ties of BF16.
TEST(PackedWeightTest, UnpackingKeepsOddValues) {
  ThreadPool pool(1);
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    for (bool means : {false, true}) {
      PackedMatrix matrix = RandomPackedMatrix(
          {.rows = 50, .columns = 50, .cluster_size = 16, .partition = partition, .means = means},
          7);
      const std::vector<float> odd = {-0.0f, 0.0f, 3e38f, -1e-40f, 1.00390625f, -1.01171875f};
      for (size_t g = 0; g < matrix.depth.size(); ++g) {
        matrix.scale[g] = odd[g % odd.size()];
        if (means) matrix.mean[g] = odd[g / 2 % odd.size()];
      }
      for (auto& table : matrix.table) {
        for (size_t i = 0; i < table.size(); i += 3) table[i] = odd[i % odd.size()];
      }
      ASSERT_TRUE(matrix.Validate().ok());
      const std::vector<float> w = Decode(matrix);
      for (PackedIsa isa : SupportedIsas()) {
        const auto weight = MakeCpuPackedWeight(matrix, isa);
        std::vector<float> unpacked(w.size());
        UnpackToFloat(*weight, unpacked.data(), pool);
        std::vector<uint16_t> unpacked_bf16(w.size());
        UnpackToBF16(*weight, unpacked_bf16.data(), pool);
        for (size_t i = 0; i < w.size(); ++i) {
          ASSERT_EQ(std::bit_cast<uint32_t>(unpacked[i]), std::bit_cast<uint32_t>(w[i])) << i;
          ASSERT_EQ(unpacked_bf16[i], FloatToBF16(w[i])) << i;
        }
      }
    }
  }
}

TEST(PackedWeightTest, SameBitsForAnyNumberOfThreadsAndAnyBatch) {
  for (Partition partition : {Partition::kColumns, Partition::kRows}) {
    const RandomPackedSpec spec = {
        .rows = 300, .columns = 700, .cluster_size = 144, .partition = partition, .means = true};
    const PackedMatrix matrix = RandomPackedMatrix(spec, 11);
    const int64_t n = 15;
    const std::vector<float> x = RandomFloats(n * spec.columns, 12);
    for (PackedIsa isa : SupportedIsas()) {
      const auto weight = MakeCpuPackedWeight(matrix, isa);
      ThreadPool one(1);
      std::vector<float> expected(n * spec.rows);
      for (int64_t t = 0; t < n; ++t) {
        PackedProduct(*weight, x.data() + t * spec.columns, 1, nullptr,
                      expected.data() + t * spec.rows, one);
      }
      for (int threads : {1, 2, 3, 7}) {
        ThreadPool pool(threads);
        std::vector<float> y(n * spec.rows);
        PackedProduct(*weight, x.data(), n, nullptr, y.data(), pool);
        ASSERT_EQ(y, expected) << threads;
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
