#include "pipeline/output_moments.h"

#include <algorithm>
#include <cmath>

#include "base/interrupt.h"

namespace cvxq {
namespace {

// One linear: `moment` is H_O in blocks [count, block, block], zero-padded at the end.
StatusOr<OutputMoments> Factor(
    std::vector<float> moment, int64_t rows, int64_t block, double shrinkage,
    const std::function<std::vector<int32_t>(int64_t, std::span<const float>)>& order,
    Rounder& rounder, SpillStore& store) {
  OutputMoments out;
  out.block = block;
  out.conditional.assign(rows, 0.0f);
  const auto at = [&](int64_t r) {
    return (r / block) * block * block + (r % block) * block + r % block;
  };
  double trace = 0;
  for (int64_t r = 0; r < rows; ++r) trace += moment[at(r)];
  out.trace = trace;
  const double mean = trace / static_cast<double>(rows);
  std::vector<float> triangles;
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t n = std::min(block, rows - first);
    std::vector<float> diagonal(n);
    for (int64_t i = 0; i < n; ++i) diagonal[i] = moment[at(first + i)];
    std::vector<int32_t> places = order(first, diagonal);
    out.order.insert(out.order.end(), places.begin(), places.end());
    std::vector<float> h(n * n);
    for (int64_t i = 0; i < n; ++i) {
      std::copy_n(&moment[first / block * block * block + i * block], n, &h[i * n]);
      // Towards the mean of all rows, not of the block: a block of rows without gradient must not
      // count for more than it is.
      h[i * n + i] += static_cast<float>(mean * shrinkage / (1 - shrinkage));
    }
    for (int32_t& place : places) place -= static_cast<int32_t>(first);
    CVXQ_ASSIGN_OR_RETURN(const CurvatureFactor factor,
                          rounder.FactorInOrder(std::move(h), places, /*damping=*/0));
    out.damping = std::max(out.damping, factor.damping);
    for (int64_t i = 0; i < n; ++i) {
      if (mean > 0) {
        out.conditional[first + places[i]] =
            static_cast<float>((1 - shrinkage) * factor.diagonal[i]);
      }
      triangles.insert(triangles.end(), &factor.lower[i * n], &factor.lower[i * n + i]);
    }
  }
  CVXQ_ASSIGN_OR_RETURN(out.lower, store.Put(triangles));
  return out;
}

}  // namespace

int64_t OutputBlockRows(const ArchSpec& spec, int64_t memory, int64_t unit) {
  int64_t widest = 0;
  for (const LinearId id : spec.linears()) widest = std::max(widest, spec.rows(id));
  const auto bytes = [&](int64_t block) {
    int64_t sum = 0;
    for (const LinearId id : spec.linears()) {
      const int64_t b = std::min(block, spec.rows(id));
      sum += (spec.rows(id) + b - 1) / b * b * b * static_cast<int64_t>(sizeof(float));
    }
    return sum * spec.layers;
  };
  if (bytes(widest) <= memory) return widest;
  int64_t block = unit;
  while (2 * block < widest && bytes(2 * block) <= memory) block *= 2;
  return block;
}

StatusOr<ModelOutputs> FactorOutputMoments(const ArchSpec& spec, BlockRange blocks,
                                           int64_t block_rows, double shrinkage,
                                           const RowOrder& order, ModelGradients& gradients,
                                           ThreadPool& pool, Rounder& rounder, SpillStore& store) {
  ModelOutputs outputs(spec.layers);
  const std::vector<LinearId> linears = spec.linears();
  const int64_t count = static_cast<int64_t>(linears.size());
  std::vector<Status> status(blocks.size() * count);
  pool.ParallelFor(blocks.size() * count, [&](int64_t i) {
    const int64_t block = blocks.begin + i / count;
    const LinearId id = linears[i % count];
    StatusOr<OutputMoments> factored = Factor(
        std::move(gradients[block][static_cast<int>(id)].output_moment), spec.rows(id),
        std::min(block_rows, spec.rows(id)), shrinkage,
        [&](int64_t first, std::span<const float> diagonal) {
          return order(block, id, first, diagonal);
        },
        rounder, store);
    if (!factored.ok()) {
      status[i] = Status(
          factored.status().code(),
          absl::StrCat(spec.LinearName(block, id), ", outputs: ", factored.status().message()));
      return;
    }
    outputs[block][static_cast<int>(id)] = *std::move(factored);
  });
  for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
  CVXQ_RETURN_IF_ERROR(CheckInterrupted());
  return outputs;
}

StatusOr<std::vector<RowBlock>> LoadRowBlocks(const OutputMoments& moments,
                                              const SpillStore& store) {
  std::vector<float> triangles(store.size(moments.lower));
  CVXQ_RETURN_IF_ERROR(store.Get(moments.lower, triangles));
  std::vector<RowBlock> blocks;
  const int64_t rows = static_cast<int64_t>(moments.order.size());
  const float* next = triangles.data();
  for (int64_t first = 0; first < rows; first += moments.block) {
    const int64_t n = std::min(moments.block, rows - first);
    RowBlock& block = blocks.emplace_back();
    block.rows.assign(&moments.order[first], &moments.order[first] + n);
    block.lower.assign(n * n, 0.0f);
    for (int64_t i = 0; i < n; ++i) {
      std::copy_n(next, i, &block.lower[i * n]);
      next += i;
      block.lower[i * n + i] = 1;
    }
  }
  return blocks;
}

}  // namespace cvxq
