#include "pipeline/row_sample.h"

#include <algorithm>
#include <utility>

namespace cvxq {
namespace {

// The sum of row weight times squares: what distortion is in proportion to.
double Energy(const std::vector<float>& w, const std::vector<float>& row_weight, int64_t columns) {
  double sum = 0;
  for (size_t r = 0; r < row_weight.size(); ++r) {
    double row = 0;
    for (int64_t c = 0; c < columns; ++c) {
      const double value = w[r * columns + c];
      row += value * value;
    }
    sum += row * row_weight[r];
  }
  return sum;
}

}  // namespace

RowSample SampleRows(std::vector<float> w, MatrixCurvature curvature, int64_t columns,
                     int64_t measured_rows) {
  RowSample sample;
  const auto rows = static_cast<int64_t>(curvature.row_weight.size());
  const auto blocks = static_cast<int64_t>(curvature.blocks.size());
  const int64_t unit = blocks > 0 ? static_cast<int64_t>(curvature.blocks[0].rows.size()) : 1;
  const int64_t units = blocks > 0 ? blocks : rows;
  const int64_t take = std::max<int64_t>(1, measured_rows / unit);
  if (2 * take > units) {
    sample.rows = rows;
    sample.w = std::move(w);
    sample.curvature = std::move(curvature);
    return sample;
  }
  std::vector<int32_t> chosen;
  for (int64_t i = 0; i < take; ++i) {
    const int64_t at = i * units / take;
    if (blocks == 0) {
      chosen.push_back(static_cast<int32_t>(at));
      continue;
    }
    RowBlock block = std::move(curvature.blocks[at]);
    for (int32_t& row : block.rows) {
      chosen.push_back(row);
      row = static_cast<int32_t>(chosen.size()) - 1;
    }
    sample.curvature.blocks.push_back(std::move(block));
  }
  for (const int32_t row : chosen) {
    sample.w.insert(sample.w.end(), &w[row * columns], &w[row * columns] + columns);
    sample.curvature.row_weight.push_back(curvature.row_weight[row]);
  }
  sample.rows = static_cast<int64_t>(chosen.size());
  const double part = Energy(sample.w, sample.curvature.row_weight, columns);
  if (part > 0) sample.scale = Energy(w, curvature.row_weight, columns) / part;
  sample.curvature.inputs = std::move(curvature.inputs);
  return sample;
}

}  // namespace cvxq
