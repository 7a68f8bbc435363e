#include "formats/gguf_matrix.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace cvxq {
namespace {

constexpr int kNvfp4 = 40;

// One row of values as a dense type stores it; false where one is beyond its range.
bool PackRow(DType dtype, const float* values, int64_t count, std::byte* out) {
  bool finite = true;
  if (dtype == DType::kF32) {
    std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
    return true;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = dtype == DType::kBF16 ? FloatToBF16(values[i]) : FloatToF16(values[i]);
    const float stored = dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
    finite = finite && std::isfinite(stored);
    std::memcpy(out + 2 * i, &bits, 2);
  }
  return finite;
}

}  // namespace

bool HasMatrixScale(const GgmlType& type) { return type.id() == kNvfp4; }

StatusOr<std::vector<std::byte>> PackGgufMatrix(const GgmlType& type, int64_t rows, int64_t columns,
                                                const ExportedMatrix& matrix,
                                                std::span<const int64_t> order) {
  const GridMatrix& grid = matrix.grid;
  const bool dense = type.dense().has_value();
  const bool fits = dense ? static_cast<int64_t>(matrix.values.size()) == rows * columns
                          : grid.type == &type && grid.rows == rows && grid.columns == columns;
  if (!fits) {
    return absl::InternalError(
        absl::StrCat("a matrix comes that is no ", type.name(), " of [", rows, ", ", columns, "]"));
  }
  const int64_t blocks = columns / type.block(), row_bytes = blocks * type.block_bytes();
  std::vector<std::byte> bytes(rows * row_bytes);
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t from = order.empty() ? r : order[r];
    std::byte* out = bytes.data() + r * row_bytes;
    if (dense) {
      finite = PackRow(*type.dense(), &matrix.values[from * columns], columns, out) && finite;
    } else {
      type.Pack(&grid.fields[from * blocks * type.field_bytes()], &grid.codes[from * columns],
                blocks, reinterpret_cast<uint8_t*>(out));
    }
  }
  if (!finite) {
    return absl::InvalidArgumentError(
        absl::StrCat("values are beyond the range of ", type.name(), "; leave it out of --menu"));
  }
  return bytes;
}

std::vector<float> DecodeGgufMatrix(const GgmlType& type, int64_t rows, int64_t columns,
                                    std::span<const std::byte> bytes, float matrix_scale,
                                    std::span<const int64_t> order) {
  const int64_t blocks = columns / type.block(), subs = columns / type.sub();
  GridMatrix grid{.type = &type, .rows = 1, .columns = columns};
  grid.fields.resize(blocks * type.field_bytes());
  grid.codes.resize(columns);
  grid.step.resize(subs);
  if (type.has_offset()) grid.offset.resize(subs);
  std::vector<float> values(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    const auto* row =
        reinterpret_cast<const uint8_t*>(bytes.data()) + r * blocks * type.block_bytes();
    type.Unpack(row, blocks, grid.fields.data(), grid.codes.data());
    type.Grids(grid.fields.data(), blocks, matrix_scale, grid.step.data(), grid.offset.data());
    const std::vector<float> decoded = Decode(grid);
    const int64_t to = order.empty() ? r : order[r];
    std::copy(decoded.begin(), decoded.end(), values.begin() + to * columns);
  }
  return values;
}

}  // namespace cvxq
