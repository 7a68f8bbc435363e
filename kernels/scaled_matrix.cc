// Validation and the plain decoder of scaled matrices (scaled_matrix.h has the form).
#include "kernels/scaled_matrix.h"

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"

namespace cvxq {
namespace {

constexpr int64_t kMaxDimension = std::numeric_limits<int32_t>::max();
constexpr int32_t kMaxCode = 1 << 24;  // floats hold these exactly

Status Broken(const auto&... parts) {
  return absl::DataLossError(absl::StrCat("broken scaled matrix: ", parts...));
}

// The first scale that is not positive and finite, or -1.
int64_t FirstBadScale(const std::vector<float>& scales) {
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!(scales[i] > 0 && std::isfinite(scales[i]))) return static_cast<int64_t>(i);
  }
  return -1;
}

// The codes must have their length.
Status ValidateOutliers(const ScaledMatrix& matrix) {
  int64_t next = 0;  // the first place that is not before or at an earlier outlier
  for (const ScaledOutlier& outlier : matrix.outliers) {
    const auto [row, column, code] = outlier;
    if (row < 0 || row >= matrix.rows || column < 0 || column >= matrix.columns) {
      return Broken("an outlier at row ", row, ", column ", column, " is out of range");
    }
    const int64_t place = row * matrix.columns + column;
    if (place < next) {
      return Broken("the outlier at row ", row, ", column ", column, " is out of order");
    }
    next = place + 1;
    if (code > kMaxCode || code < -kMaxCode) {
      return Broken("the outlier ", code, " at row ", row, ", column ", column, " is too large");
    }
    if (matrix.codes[place] != 0) {
      return Broken("row ", row, ", column ", column, " has both a code and an outlier");
    }
  }
  return absl::OkStatus();
}

}  // namespace

Status ScaledMatrix::Validate() const {
  if (rows < 1 || rows > kMaxDimension || columns < 1 || columns > kMaxDimension) {
    return Broken("shape ", rows, " x ", columns, " is out of range");
  }
  if (codes.size() != static_cast<uint64_t>(rows * columns)) {
    return Broken(codes.size(), " codes for ", rows, " x ", columns, " weights");
  }
  if (row_scale.size() != static_cast<uint64_t>(rows)) {
    return Broken(row_scale.size(), " row scales for ", rows, " rows");
  }
  if (column_scale.size() != static_cast<uint64_t>(columns)) {
    return Broken(column_scale.size(), " column scales for ", columns, " columns");
  }
  if (int64_t r = FirstBadScale(row_scale); r >= 0) {
    return Broken("the scale of row ", r, " is not positive and finite");
  }
  if (int64_t c = FirstBadScale(column_scale); c >= 0) {
    return Broken("the scale of column ", c, " is not positive and finite");
  }
  return ValidateOutliers(*this);
}

std::vector<float> Decode(const ScaledMatrix& matrix) {
  const int64_t N = matrix.columns;
  std::vector<float> w(matrix.rows * N);
  const auto value = [&](int64_t r, int64_t c, int32_t code) {
    const float scaled = static_cast<float>(code) * matrix.row_scale[r];
    return scaled * matrix.column_scale[c];
  };
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < N; ++c) w[r * N + c] = value(r, c, matrix.codes[r * N + c]);
  }
  for (const ScaledOutlier& outlier : matrix.outliers) {
    w[outlier.row * N + outlier.column] = value(outlier.row, outlier.column, outlier.code);
  }
  return w;
}

}  // namespace cvxq
