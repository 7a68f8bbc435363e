// Inside of CpuPackedWeight: the layout in memory, for the functions of packed_weight.h and tests.
#ifndef CVXQ_KERNELS_CPU_PACKED_LAYOUT_H_
#define CVXQ_KERNELS_CPU_PACKED_LAYOUT_H_

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/packed_strip.h"
#include "kernels/packed_matrix.h"

namespace cvxq {

// A matrix cut in strips of 16 rows (packed_strip.h). Within a cluster, for depths b = 8 .. 1,
// with L_b the cluster's number of lines of that depth:
//
//   kColumns (members are rows):
//     for each strip of 16 members: for each b: WordsPerLane(L_b, b) * 16 words
//     for the columns of depth b in order of index
//   kRows (members are columns):
//     for each b: for each strip of 16 lines of depth b: WordsPerLane(members, b) * 16 words
//
// Strips are in pairs (packed_strip.h) where InPairs(b). Lanes that fill up the last strip have
// codes 0. So clusters of 16 k rows waste nothing, and clusters of fewer than 16 rows up to 15 / 16
// of the memory; such clusters are not worth it anyway as each group carries a scale.
class CpuPackedWeight : public PackedWeight {
 public:
  struct Cluster {
    int64_t first_word = 0;
    std::array<int64_t, kMaxDepth + 1> lines = {};  // L_b
  };
  struct FreeWords {
    void operator()(uint32_t* words) const { std::free(words); }
  };

  int64_t cluster_begin(int64_t c) const { return c * cluster_size; }
  int64_t cluster_members(int64_t c) const {
    return std::min<int64_t>(cluster_size, members.size() - cluster_begin(c));
  }

  bool InPairs(int depth) const { return pairs != nullptr && depth <= kMaxPairDepth; }
  int64_t WordsPerLane(int64_t columns, int depth) const {
    return InPairs(depth) ? PairStripWords(columns, depth) : StripWords(columns, depth);
  }

  Partition partition = Partition::kColumns;
  int64_t cluster_size = 0;
  std::vector<int32_t> members;
  std::vector<Cluster> clusters;
  std::unique_ptr<uint32_t[], FreeWords> words;
  // kColumns: [clusters, lines] as in PackedMatrix, but scale is 1 where depth is 0.
  // kRows: in the order of `order`, [clusters, lines] line indices as LineOrder gives them.
  std::vector<uint8_t> depth;
  std::vector<float> scale, mean;
  std::vector<int32_t> order;                           // kRows only
  std::array<std::vector<float>, kMaxDepth + 1> table;  // at least 16 values, repeated
  const StripKernels* kernels = nullptr;
  const PairKernels* pairs = nullptr;  // kColumns only, may be null
};

inline int64_t StripsOf(int64_t rows) { return (rows + kStripLanes - 1) / kStripLanes; }

// Instruction sets that products can be computed with, least first. kAvx512Bf16 rounds to BF16.
enum class PackedIsa : uint8_t { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

// Whether this CPU has it.
bool IsSupported(PackedIsa isa);

// As MakeCpuPackedWeight(matrix, compute), for one instruction set, which must be supported.
std::shared_ptr<CpuPackedWeight> MakeCpuPackedWeight(const PackedMatrix& matrix, PackedIsa isa);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_PACKED_LAYOUT_H_
