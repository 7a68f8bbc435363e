// Validation and the plain decoder of affine matrices (affine_matrix.h has the form).
#include "kernels/affine_matrix.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

constexpr int64_t kMaxDimension = std::numeric_limits<int32_t>::max();

Status Broken(const auto&... parts) {
  return absl::DataLossError(absl::StrCat("broken affine matrix: ", parts...));
}

bool IsHalf(float value) { return std::isfinite(value) && F16ToFloat(FloatToF16(value)) == value; }

// The first value above `largest`, or -1.
int64_t FirstAbove(const std::vector<uint8_t>& values, int largest) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] > largest) return static_cast<int64_t>(i);
  }
  return -1;
}

// Sizes that other checks and the decoder rely on.
Status ValidateShape(const AffineMatrix& m) {
  if (m.rows < 1 || m.rows > kMaxDimension || m.columns < 1 || m.columns > kMaxDimension) {
    return Broken("shape ", m.rows, " x ", m.columns, " is out of range");
  }
  if (m.bits < 2 || m.bits > 8) return Broken("a width of ", m.bits, " bits is out of range");
  if (m.group < 1 || m.group > kMaxDimension) {
    return Broken("groups of ", m.group, " columns are out of range");
  }
  const auto weights = static_cast<uint64_t>(m.rows * m.columns);
  const auto groups = static_cast<uint64_t>(m.rows * m.group_count());
  if (m.codes.size() != weights) {
    return Broken(m.codes.size(), " codes for ", weights, " weights");
  }
  if (m.scale.size() != groups) {
    return Broken(m.scale.size(), " scales for ", groups, " groups");
  }
  if (m.zero.size() != groups) {
    return Broken(m.zero.size(), " zero points for ", groups, " groups");
  }
  if (!m.column_scale.empty() && m.column_scale.size() != static_cast<uint64_t>(m.columns)) {
    return Broken(m.column_scale.size(), " column scales for ", m.columns, " columns");
  }
  if (m.kept_columns.size() > static_cast<uint64_t>(m.columns)) {
    return Broken(m.kept_columns.size(), " kept columns of ", m.columns);
  }
  const uint64_t kept = m.kept_columns.size() * static_cast<uint64_t>(m.rows);
  if (m.kept.size() != kept) return Broken(m.kept.size(), " kept values, not ", kept);
  return absl::OkStatus();
}

Status ValidateKeptColumns(const AffineMatrix& m) {
  int32_t last = -1;
  for (const int32_t column : m.kept_columns) {
    if (column < 0 || column >= m.columns) {
      return Broken("kept column ", column, " is out of range");
    }
    if (column <= last) return Broken("kept column ", column, " is not above the one before");
    last = column;
    for (int64_t r = 0; r < m.rows; ++r) {
      if (m.codes[r * m.columns + column] != 0) {
        return Broken("kept column ", column, " has a code in row ", r);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

Status AffineMatrix::Validate() const {
  CVXQ_RETURN_IF_ERROR(ValidateShape(*this));
  const int largest = (1 << bits) - 1;
  if (int64_t i = FirstAbove(codes, largest); i >= 0) {
    return Broken("code ", i, " does not fit ", bits, " bits");
  }
  if (int64_t i = FirstAbove(zero, largest); i >= 0) {
    return Broken("zero point ", i, " does not fit ", bits, " bits");
  }
  for (size_t i = 0; i < scale.size(); ++i) {
    if (!IsHalf(scale[i]) || scale[i] < 0) {
      return Broken("scale ", i, " is not a half of 0 or more");
    }
  }
  for (size_t i = 0; i < column_scale.size(); ++i) {
    if (!IsHalf(column_scale[i]) || !(column_scale[i] > 0)) {
      return Broken("column scale ", i, " is not a half above 0");
    }
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    if (!IsHalf(kept[i])) return Broken("kept value ", i, " is not a finite half");
  }
  return ValidateKeptColumns(*this);
}

std::vector<float> Decode(const AffineMatrix& matrix) {
  const int64_t columns = matrix.columns, groups = matrix.group_count();
  std::vector<float> w(matrix.rows * columns);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t g = r * groups + c / matrix.group;
      const int difference = matrix.codes[r * columns + c] - matrix.zero[g];
      float value = static_cast<float>(difference) * matrix.scale[g];
      if (!matrix.column_scale.empty()) value /= matrix.column_scale[c];
      w[r * columns + c] = value;
    }
    const auto kept_columns = static_cast<int64_t>(matrix.kept_columns.size());
    for (int64_t k = 0; k < kept_columns; ++k) {
      w[r * columns + matrix.kept_columns[k]] = matrix.kept[r * kept_columns + k];
    }
  }
  return w;
}

}  // namespace cvxq
