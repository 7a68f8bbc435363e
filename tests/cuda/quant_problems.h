// Problems of error feedback that a GPU and the CPU solve, and how their solutions are compared.
//
// Both take the same decisions but where two are all but equally good; one such decision changes
// all that follow. So the distortion is compared, and how many codes are the same.
#ifndef CVXQ_TESTS_CUDA_QUANT_PROBLEMS_H_
#define CVXQ_TESTS_CUDA_QUANT_PROBLEMS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/device_rounder.h"
#include "quant/curvature.h"
#include "quant/feedback.h"
#include "tests/quant/quant_testing.h"

namespace cvxq {

inline Backend* Gpu() {
  static StatusOr<std::unique_ptr<Backend>>* const backend =
      new StatusOr<std::unique_ptr<Backend>>(MakeCudaBackend());
  return backend->ok() ? backend->value().get() : nullptr;
}

// W with the factors of its curvature.
struct Problem {
  int64_t rows, columns;
  std::vector<float> w;
  bool feeds_columns;
  CurvatureFactor inputs;
  std::vector<RowBlock> blocks;
  std::vector<std::vector<float>> diagonal;  // D_O of each block, by places
  int64_t tile_rows;

  FeedbackInput Input() const {
    return {.w = w.data(),
            .rows = rows,
            .columns = columns,
            .inputs = feeds_columns ? &inputs : nullptr,
            .blocks = blocks,
            .tile_rows = tile_rows};
  }
};

struct BlockShape {
  int64_t rows;
  bool feeds;
};

inline Problem MakeProblem(int64_t columns, bool feeds_columns, std::vector<BlockShape> shapes,
                           int64_t tile_rows) {
  Problem p{.columns = columns, .feeds_columns = feeds_columns, .tile_rows = tile_rows};
  p.inputs = *FactorCurvature(CorrelatedMoments(columns, 3 * columns, columns), columns, 0.01);
  p.rows = 0;
  for (const BlockShape& shape : shapes) {
    RowBlock& block = p.blocks.emplace_back();
    block.rows.resize(shape.rows);
    std::iota(block.rows.rbegin(), block.rows.rend(), static_cast<int32_t>(p.rows));
    std::vector<float>& diagonal = p.diagonal.emplace_back(shape.rows, 1.0f);
    if (shape.feeds) {
      std::vector<int32_t> order(shape.rows);
      std::iota(order.begin(), order.end(), 0);
      CurvatureFactor factor =
          *FactorInOrder(CorrelatedMoments(shape.rows, 3 * shape.rows, 7), order, 0.05);
      block.lower = std::move(factor.lower);
      diagonal = std::move(factor.diagonal);
    }
    p.rows += shape.rows;
  }
  p.w = Draws(p.rows * columns).Normals(p.rows * columns);
  return p;
}

// sum D_O D_I (L_O^T E L_I)^2 of E = value - W.
inline double Distortion(const Problem& p, const std::vector<float>& value) {
  const int64_t n = p.columns;
  double sum = 0;
  for (size_t b = 0; b < p.blocks.size(); ++b) {
    const RowBlock& block = p.blocks[b];
    const int64_t m = static_cast<int64_t>(block.rows.size());
    std::vector<double> error(m * n), right(m * n);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const int64_t at = block.rows[r] * n + p.inputs.order[c];
        error[r * n + c] = static_cast<double>(value[at]) - p.w[at];
      }
      for (int64_t c = 0; c < n; ++c) {
        for (int64_t j = c; j < n; ++j) {
          right[r * n + c] += error[r * n + j] * p.inputs.lower[j * n + c];
        }
      }
    }
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        double t = right[r * n + c];
        for (int64_t i = r + 1; i < m && !block.lower.empty(); ++i) {
          t += block.lower[i * m + r] * right[i * n + c];
        }
        sum += p.diagonal[b][r] * p.inputs.diagonal[c] * t * t;
      }
    }
  }
  return sum;
}

// What goes to the GPU.
inline Tensor Send(DType dtype, Shape shape, const void* data) {
  Tensor tensor = Gpu()->Allocate(dtype, std::move(shape));
  Gpu()->Upload(data, tensor);
  return tensor;
}
inline Tensor Send(const std::vector<float>& data) {
  return Send(DType::kF32, {std::ssize(data)}, data.data());
}
inline Tensor Send(const std::vector<int32_t>& data) {
  return Send(DType::kI32, {std::ssize(data)}, data.data());
}

inline DeviceFeedback Send(const Problem& p) {
  DeviceFeedback f;
  f.w = Send(DType::kF32, {p.rows, p.columns}, p.w.data());
  if (p.feeds_columns) {
    f.lower = Send(DType::kF32, {p.columns, p.columns}, p.inputs.lower.data());
    f.order = p.inputs.order;
  }
  for (const RowBlock& block : p.blocks) {
    DeviceFeedback::Block& sent = f.blocks.emplace_back();
    sent.rows = block.rows;
    const int64_t n = static_cast<int64_t>(block.rows.size());
    if (!block.lower.empty()) sent.lower = Send(DType::kF32, {n, n}, block.lower.data());
  }
  f.tile_rows = p.tile_rows;
  return f;
}

template <typename Rule>
std::vector<uint16_t> RoundOnGpu(const Problem& p, const Rule& rule) {
  const Tensor codes = Gpu()->Allocate(DType::kU16, {p.rows, p.columns});
  MakeDeviceRounder(*Gpu())->Round(Send(p), rule, codes);
  std::vector<uint16_t> result(p.rows * p.columns);
  Gpu()->Download(codes, result.data());
  EXPECT_TRUE(Gpu()->Synchronize().ok()) << Gpu()->Synchronize();
  return result;
}

struct Rounded {
  std::vector<uint16_t> codes;
  std::vector<float> values;
};

inline void ExpectAlike(const Problem& p, const Rounded& gpu, const Rounded& cpu) {
  int64_t same = 0;
  for (size_t i = 0; i < gpu.codes.size(); ++i) same += gpu.codes[i] == cpu.codes[i];
  EXPECT_GE(static_cast<double>(same), 0.98 * static_cast<double>(gpu.codes.size()));
  const double of_cpu = Distortion(p, cpu.values);
  EXPECT_NEAR(Distortion(p, gpu.values), of_cpu, 0.005 * of_cpu);
}

class CudaQuantTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Gpu() == nullptr) GTEST_SKIP() << MakeCudaBackend().status().message();
  }
};

inline std::vector<Problem> Problems() {
  std::vector<Problem> problems;
  problems.push_back(MakeProblem(45, true, {{150, true}}, 64));   // three by two tiles
  problems.push_back(MakeProblem(33, true, {{140, true}}, 128));  // all parts of a tile
  problems.push_back(MakeProblem(140, true, {{40, false}, {37, false}, {3, false}}, 40));
  problems.push_back(MakeProblem(40, true, {{30, true}, {20, false}, {70, true}}, 64));
  problems.push_back(MakeProblem(35, false, {{66, true}}, 32));  // between rows alone
  problems.push_back(MakeProblem(70, true, {{1, true}}, 64));
  problems.push_back(MakeProblem(1, true, {{70, true}}, 64));
  problems.push_back(MakeProblem(9, true, {{256, false}, {44, false}}, 256));
  return problems;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_CUDA_QUANT_PROBLEMS_H_
