// Scaled matrices: the plain decoder by hand, refusal of broken ones, and the CPU's products and
// decoding against the plain decoder, with every instruction set this CPU has.
#include "kernels/cpu/scaled_weight.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/thread_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tensor/dtype.h"
#include "tests/kernels/backend_testing.h"
#include "tests/kernels/scaled_test_matrix.h"

namespace cvxq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<VectorLevel> Levels() {
  std::vector<VectorLevel> levels;
  for (VectorLevel level : {VectorLevel::kBaseline, VectorLevel::kAvx2, VectorLevel::kAvx512}) {
    if (level <= BestVectorLevel()) levels.push_back(level);
  }
  return levels;
}

std::shared_ptr<const ScaledMatrix> Shared(ScaledMatrix matrix) {
  return std::make_shared<const ScaledMatrix>(std::move(matrix));
}

ScaledMatrix SmallMatrix() {
  return {.rows = 2,
          .columns = 3,
          .codes = {1, -2, 0, -128, 0, 127},
          .row_scale = {0.5f, 3},
          .column_scale = {2, 1, 0.25f},
          .outliers = {{0, 2, 300}, {1, 1, -129}}};
}

TEST(ScaledMatrixTest, DecodesByHand) {
  EXPECT_TRUE(SmallMatrix().Validate().ok()) << SmallMatrix().Validate();
  EXPECT_THAT(Decode(SmallMatrix()), ElementsAre(1, -1, 37.5f, -768, -387, 95.25f));
}

TEST(ScaledMatrixTest, RefusesBrokenMatrices) {
  const float inf = std::numeric_limits<float>::infinity();
  const struct {
    std::function<void(ScaledMatrix&)> breaking;
    std::string text;
  } cases[] = {
      {[](auto& m) { m.rows = 0; }, "shape 0 x 3 is out of range"},
      {[](auto& m) { m.columns = -1; }, "shape 2 x -1 is out of range"},
      {[](auto& m) { m.columns = int64_t{1} << 40; }, "is out of range"},
      {[](auto& m) { m.codes.pop_back(); }, "5 codes for 2 x 3 weights"},
      {[](auto& m) { m.row_scale.push_back(1); }, "3 row scales for 2 rows"},
      {[](auto& m) { m.column_scale.clear(); }, "0 column scales for 3 columns"},
      {[](auto& m) { m.row_scale[1] = 0; }, "the scale of row 1 is not positive and finite"},
      {[](auto& m) { m.row_scale[0] = NAN; }, "the scale of row 0 is not positive and finite"},
      {[](auto& m) { m.column_scale[2] = -1; }, "the scale of column 2 is not positive"},
      {[&](auto& m) { m.column_scale[1] = inf; }, "the scale of column 1 is not positive"},
      {[](auto& m) { m.outliers[1].row = 2; }, "row 2, column 1 is out of range"},
      {[](auto& m) { m.outliers[0].column = -1; }, "row 0, column -1 is out of range"},
      {[](auto& m) { std::swap(m.outliers[0], m.outliers[1]); }, "row 0, column 2 is out of order"},
      {[](auto& m) { m.outliers[1] = m.outliers[0]; }, "row 0, column 2 is out of order"},
      {[](auto& m) { m.outliers[0].code = std::numeric_limits<int32_t>::min(); }, "is too large"},
      {[](auto& m) { m.codes[2] = 1; }, "row 0, column 2 has both a code and an outlier"},
  };
  for (const auto& [breaking, text] : cases) {
    ScaledMatrix matrix = SmallMatrix();
    breaking(matrix);
    const Status status = matrix.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
}

// Checks y[n,M] against the product in double, with an error allowed for float sums.
void ExpectProduct(const std::vector<float>& w, const std::vector<float>& x, int64_t n,
                   const float* bias, const std::vector<float>& y, int64_t M, int64_t N) {
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t m = 0; m < M; ++m) {
      double sum = bias == nullptr ? 0 : bias[m], magnitude = 1e-3 + std::abs(sum);
      for (int64_t j = 0; j < N; ++j) {
        const double term = double{w[m * N + j]} * x[t * N + j];
        sum += term;
        magnitude += std::abs(term);
      }
      ASSERT_NEAR(y[t * M + m], sum, 2e-6 * magnitude) << "row " << m << " of token " << t;
    }
  }
}

TEST(ScaledWeightTest, ProductsAndUnpackingMatchTheDecoder) {
  ThreadPool pool(2);
  uint64_t key = 0;
  for (int64_t M : {1, 3, 5, 64, 131}) {
    for (int64_t N : {1, 15, 16, 33, 64, 83, 257}) {
      for (int64_t outlier_every : {0, 1, 20, 1000}) {
        SCOPED_TRACE(absl::StrCat(M, " x ", N, ", outliers ", outlier_every));
        const int64_t n = 1 + static_cast<int64_t>(key % 9);
        const auto matrix = Shared(RandomScaledMatrix(M, N, outlier_every, ++key));
        ASSERT_TRUE(matrix->Validate().ok()) << matrix->Validate();
        const std::vector<float> w = Decode(*matrix);
        const std::vector<float> x = Numbers(n * N, ++key), bias = Numbers(M, ++key);
        const float* b = key % 2 == 0 ? bias.data() : nullptr;
        for (VectorLevel level : Levels()) {
          SCOPED_TRACE(static_cast<int>(level));
          const CpuScaledWeight weight(matrix, DType::kF32, level);
          std::vector<float> y(n * M, NAN);
          ScaledProduct(weight, x.data(), n, b, y.data(), pool);
          ASSERT_NO_FATAL_FAILURE(ExpectProduct(w, x, n, b, y, M, N));

          const int64_t begin = M / 3;  // of the rows that are unpacked
          std::vector<float> unpacked((M - begin) * N, NAN);
          UnpackToFloat(weight, begin, M, unpacked.data(), pool);
          std::vector<uint16_t> unpacked_bf16((M - begin) * N, 0xffff);
          UnpackToBF16(weight, begin, M, unpacked_bf16.data(), pool);
          for (size_t i = 0; i < unpacked.size(); ++i) {
            const float exact = w[begin * N + i];
            ASSERT_EQ(std::bit_cast<uint32_t>(unpacked[i]), std::bit_cast<uint32_t>(exact)) << i;
            ASSERT_EQ(unpacked_bf16[i], FloatToBF16(exact)) << i;
          }
        }
      }
    }
  }
}

// Scales where one rounding or another order would differ: overflow, subnormal numbers, ties of
// BF16.
TEST(ScaledWeightTest, UnpackingKeepsOddValues) {
  ThreadPool pool(1);
  ScaledMatrix odd = RandomScaledMatrix(50, 50, 30, 7);
  const float values[] = {3e38f, 1e-40f, 1.00390625f, 1.01171875f, 1e-30f, 0.1f};
  for (size_t i = 0; i < 50; ++i) {
    odd.row_scale[i] = values[i % 6];
    odd.column_scale[i] = values[i / 6 % 6];
  }
  ASSERT_TRUE(odd.Validate().ok());
  const auto matrix = Shared(std::move(odd));
  const std::vector<float> w = Decode(*matrix);
  for (VectorLevel level : Levels()) {
    const CpuScaledWeight weight(matrix, DType::kF32, level);
    std::vector<float> unpacked(w.size());
    UnpackToFloat(weight, 0, 50, unpacked.data(), pool);
    std::vector<uint16_t> unpacked_bf16(w.size());
    UnpackToBF16(weight, 0, 50, unpacked_bf16.data(), pool);
    for (size_t i = 0; i < w.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(unpacked[i]), std::bit_cast<uint32_t>(w[i])) << i;
      ASSERT_EQ(unpacked_bf16[i], FloatToBF16(w[i])) << i;
    }
  }
}

TEST(ScaledWeightTest, SameBitsForAnyNumberOfThreadsAndAnyBatch) {
  const int64_t M = 301, N = 715, n = 15;
  const auto matrix = Shared(RandomScaledMatrix(M, N, 100, 11));
  const std::vector<float> x = Numbers(n * N, 12);
  for (VectorLevel level : Levels()) {
    const CpuScaledWeight weight(matrix, DType::kF32, level);
    ThreadPool one(1);
    std::vector<float> expected(n * M);
    for (int64_t t = 0; t < n; ++t) {
      ScaledProduct(weight, x.data() + t * N, 1, nullptr, expected.data() + t * M, one);
    }
    for (int64_t batch = 1; batch <= n; ++batch) {
      std::vector<float> y(batch * M);
      ScaledProduct(weight, x.data(), batch, nullptr, y.data(), one);
      ASSERT_EQ(y, std::vector<float>(expected.begin(), expected.begin() + batch * M)) << batch;
    }
    for (int threads : {1, 2, 3, 7}) {
      ThreadPool pool(threads);
      std::vector<float> y(n * M);
      ScaledProduct(weight, x.data(), n, nullptr, y.data(), pool);
      ASSERT_EQ(y, expected) << threads;
    }
  }
}

// More rows of x than are multiplied straight from the codes, more weights than one slice holds.
TEST(ScaledWeightTest, ManyRowsGoThroughSlices) {
  const int64_t M = 600, N = 32768, n = 9;  // a full slice and a rest
  const auto matrix = Shared(RandomScaledMatrix(M, N, 5000, 13));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(2);
  const std::vector<float> decoded = Decode(*matrix), x_values = Numbers(n * N, 14);
  const Tensor x = MakeTensor(*backend, DType::kF32, {n, N}, x_values);
  const Tensor bias = RandomTensor(*backend, DType::kF32, {M}, 15);
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const Tensor w = MakeTensor(*backend, compute, {M, N}, decoded);
    const Tensor operand = MakeTensor(*backend, compute, {n, N}, x_values);
    const Tensor expected = backend->Allocate(DType::kF32, {n, M});
    backend->Linear(operand, w, bias, expected);
    const Tensor y = backend->Allocate(DType::kF32, {n, M});
    backend->PackedLinear(x, *backend->ImportPacked(matrix, compute), bias, y);
    ASSERT_TRUE(backend->Synchronize().ok());
    const std::vector<float> got = Values(*backend, y), want = Values(*backend, expected);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-3) << i;
  }
}

}  // namespace
}  // namespace cvxq
