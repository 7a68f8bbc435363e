// Random packed matrices for tests.
#ifndef CVXQ_TESTS_KERNELS_PACKED_TEST_MATRIX_H_
#define CVXQ_TESTS_KERNELS_PACKED_TEST_MATRIX_H_

#include <cstdint>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "kernels/packed_matrix.h"

namespace cvxq {

struct RandomPackedSpec {
  int64_t rows = 1, columns = 1, cluster_size = 1;
  Partition partition = Partition::kColumns;
  bool means = false;
  int min_depth = 0, max_depth = kMaxDepth;
};

// A valid matrix with random members, depths, scales, means, tables and codes; `codes`, if not
// null, gets what PackCodes was given.
inline PackedMatrix RandomPackedMatrix(const RandomPackedSpec& spec, uint64_t key,
                                       std::vector<uint8_t>* codes = nullptr) {
  uint64_t counter = 0;
  const auto uniform = [&](float low, float high) {
    return low + (high - low) * RandomUniform(key, counter++);
  };
  const auto below = [&](uint64_t bound) { return RandomBits(key, counter++) % bound; };
  PackedMatrix matrix;
  matrix.rows = spec.rows;
  matrix.columns = spec.columns;
  matrix.partition = spec.partition;
  matrix.cluster_size = spec.cluster_size;
  matrix.members.resize(matrix.member_count());
  std::iota(matrix.members.begin(), matrix.members.end(), 0);
  for (size_t i = matrix.members.size(); i > 1; --i) {
    std::swap(matrix.members[i - 1], matrix.members[below(i)]);
  }
  const int64_t lines = matrix.line_count(), groups = matrix.cluster_count() * lines;
  for (int64_t g = 0; g < groups; ++g) {
    matrix.depth.push_back(spec.min_depth + below(spec.max_depth - spec.min_depth + 1));
    matrix.scale.push_back(uniform(0.5f, 2));
    if (spec.means) matrix.mean.push_back(uniform(-1, 1));
  }
  for (int b = 1; b <= kMaxDepth; ++b) {
    for (int i = 0; i < 1 << b; ++i) matrix.table[b].push_back(uniform(-2, 2));
  }
  std::vector<uint8_t> drawn(matrix.member_count() * lines);
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    const int64_t members = matrix.cluster_end(c) - matrix.cluster_begin(c);
    for (int64_t j = 0; j < lines; ++j) {
      for (int64_t i = 0; i < members; ++i) {
        drawn[matrix.cluster_begin(c) * lines + j * members + i] =
            below(uint64_t{1} << matrix.depth[c * lines + j]);
      }
    }
  }
  PackCodes(drawn, matrix);
  if (codes != nullptr) *codes = std::move(drawn);
  return matrix;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_KERNELS_PACKED_TEST_MATRIX_H_
