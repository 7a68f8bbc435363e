// Validation, packing and the plain decoder of packed matrices (packed_matrix.h has the format).
#include "kernels/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"

namespace cvxq {
namespace {

constexpr int64_t kMaxDimension = std::numeric_limits<int32_t>::max();

Status Broken(const auto&... parts) {
  return absl::DataLossError(absl::StrCat("broken packed matrix: ", parts...));
}

// The first index whose value is not finite, or -1.
int64_t FirstNotFinite(const std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return static_cast<int64_t>(i);
  }
  return -1;
}

// Sizes that other checks and the accessors of PackedMatrix rely on.
Status ValidateShape(const PackedMatrix& matrix) {
  if (matrix.partition != Partition::kColumns && matrix.partition != Partition::kRows) {
    return Broken("partition ", static_cast<int>(matrix.partition), " is unknown");
  }
  if (matrix.rows < 1 || matrix.rows > kMaxDimension || matrix.columns < 1 ||
      matrix.columns > kMaxDimension) {
    return Broken("shape ", matrix.rows, " x ", matrix.columns, " is out of range");
  }
  if (matrix.cluster_size < 1 || matrix.cluster_size > kMaxDimension) {
    return Broken("cluster size ", matrix.cluster_size, " is out of range");
  }
  const auto groups = static_cast<uint64_t>(matrix.cluster_count() * matrix.line_count());
  if (matrix.depth.size() != groups) {
    return Broken(matrix.depth.size(), " depths for ", groups, " groups");
  }
  if (matrix.scale.size() != groups) {
    return Broken(matrix.scale.size(), " scales for ", groups, " groups");
  }
  if (!matrix.mean.empty() && matrix.mean.size() != groups) {
    return Broken(matrix.mean.size(), " means for ", groups, " groups");
  }
  return absl::OkStatus();
}

Status ValidateMembers(const PackedMatrix& matrix) {
  const int64_t count = matrix.member_count();
  if (matrix.members.size() != static_cast<uint64_t>(count)) {
    return Broken(matrix.members.size(), " members where the shape needs ", count);
  }
  std::vector<bool> seen(count, false);
  for (int32_t member : matrix.members) {
    if (member < 0 || member >= count) return Broken("member ", member, " is out of range");
    if (seen[member]) return Broken("member ", member, " appears twice");
    seen[member] = true;
  }
  return absl::OkStatus();
}

Status ValidateTables(const PackedMatrix& matrix) {
  std::array<bool, kMaxDepth + 1> used = {};
  for (uint8_t depth : matrix.depth) {
    if (depth > kMaxDepth) return Broken("depth ", depth, " is above ", kMaxDepth);
    used[depth] = true;
  }
  for (int b = 0; b <= kMaxDepth; ++b) {
    const std::vector<float>& table = matrix.table[b];
    if (table.empty() && (b == 0 || !used[b])) continue;
    if (table.size() != size_t{1} << b) {
      return Broken("the table of depth ", b, " has ", table.size(), " values");
    }
    if (FirstNotFinite(table) >= 0) return Broken("the table of depth ", b, " is not finite");
  }
  return absl::OkStatus();
}

}  // namespace

Status PackedMatrix::Validate() const {
  CVXQ_RETURN_IF_ERROR(ValidateShape(*this));
  CVXQ_RETURN_IF_ERROR(ValidateMembers(*this));
  CVXQ_RETURN_IF_ERROR(ValidateTables(*this));
  if (int64_t g = FirstNotFinite(scale); g >= 0) return Broken("scale ", g, " is not finite");
  if (int64_t g = FirstNotFinite(mean); g >= 0) return Broken("mean ", g, " is not finite");
  uint64_t bytes = 0;
  for (int64_t c = 0; c < cluster_count(); ++c) bytes += ClusterCodeBytes(*this, c);
  if (codes.size() != bytes) return Broken(codes.size(), " bytes of codes, not ", bytes);
  return absl::OkStatus();
}

std::vector<int32_t> LineOrder(const PackedMatrix& matrix, int64_t cluster) {
  const int64_t lines = matrix.line_count();
  const uint8_t* depth = matrix.depth.data() + cluster * lines;
  // A counting sort: begin[b] is where the next line of depth b goes.
  std::array<int64_t, kMaxDepth + 2> begin = {};
  for (int64_t j = 0; j < lines; ++j) ++begin[depth[j]];
  int64_t position = 0;
  for (int b = kMaxDepth; b >= 0; --b) {
    const int64_t count = begin[b];
    begin[b] = position;
    position += count;
  }
  std::vector<int32_t> order(lines);
  for (int64_t j = 0; j < lines; ++j) order[begin[depth[j]]++] = static_cast<int32_t>(j);
  return order;
}

int64_t ClusterCodeBytes(const PackedMatrix& matrix, int64_t cluster) {
  const int64_t lines = matrix.line_count();
  const int64_t members = matrix.cluster_end(cluster) - matrix.cluster_begin(cluster);
  int64_t depths = 0;
  for (int64_t j = 0; j < lines; ++j) depths += matrix.depth[cluster * lines + j];
  return (depths * members + 7) / 8;
}

std::vector<float> Decode(const PackedMatrix& matrix) {
  const int64_t lines = matrix.line_count();
  const bool by_columns = matrix.partition == Partition::kColumns;
  std::vector<float> w(matrix.rows * matrix.columns);
  int64_t first_byte = 0;  // of the cluster's codes
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    int64_t bit = first_byte * 8;
    for (int32_t j : LineOrder(matrix, c)) {
      const int64_t group = c * lines + j;
      const int depth = matrix.depth[group];
      for (int64_t i = matrix.cluster_begin(c); i < matrix.cluster_end(c); ++i) {
        float value = 0;
        if (depth > 0) {
          int code = 0;
          for (int k = 0; k < depth; ++k, ++bit) {
            code |= (matrix.codes[bit / 8] >> (bit % 8) & 1) << k;
          }
          value = matrix.scale[group] * matrix.table[depth][code];
          if (!matrix.mean.empty()) value += matrix.mean[group];
        } else if (!matrix.mean.empty()) {
          value = matrix.mean[group];
        }
        const int64_t member = matrix.members[i];
        w[by_columns ? member * matrix.columns + j : j * matrix.columns + member] = value;
      }
    }
    first_byte += ClusterCodeBytes(matrix, c);
  }
  return w;
}

void PackCodes(const std::vector<uint8_t>& codes, PackedMatrix& matrix) {
  const int64_t lines = matrix.line_count();
  matrix.codes.clear();
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    const int64_t members = matrix.cluster_end(c) - matrix.cluster_begin(c);
    const uint8_t* cluster_codes = codes.data() + matrix.cluster_begin(c) * lines;
    uint64_t buffer = 0;  // bits not yet written, fewer than 8 between codes
    int filled = 0;
    for (int32_t j : LineOrder(matrix, c)) {
      const int depth = matrix.depth[c * lines + j];
      if (depth == 0) break;  // lines without codes come last
      for (int64_t i = 0; i < members; ++i) {
        buffer |= uint64_t{cluster_codes[j * members + i]} << filled;
        for (filled += depth; filled >= 8; filled -= 8, buffer >>= 8) {
          matrix.codes.push_back(static_cast<uint8_t>(buffer));
        }
      }
    }
    if (filled > 0) matrix.codes.push_back(static_cast<uint8_t>(buffer));
  }
}

}  // namespace cvxq
