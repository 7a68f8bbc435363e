// From the packed format to strips in memory (packed_layout.h has the picture).
#include "kernels/cpu/packed_weight.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_layout.h"

namespace cvxq {
namespace {

// Reads codes of a cluster in their stored order. The stream has kPadding readable bytes after it.
class CodeReader {
 public:
  static constexpr int64_t kPadding = 1;
  explicit CodeReader(const uint8_t* bytes) : bytes_(bytes) {}
  uint32_t Read(int depth) {
    uint16_t two;
    std::memcpy(&two, bytes_ + bit_ / 8, sizeof(two));
    const uint32_t code = (two >> bit_ % 8) & ((1u << depth) - 1);
    bit_ += depth;
    return code;
  }

 private:
  const uint8_t* bytes_;
  int64_t bit_ = 0;
};

// Sets the code of column k in one lane of a strip; `lane` points to the lane's first word.
void PutCode(uint32_t code, int depth, int64_t k, uint32_t* lane) {
  const int64_t bit = k * depth, shift = bit % 32;
  uint32_t* word = lane + bit / 32 * kStripLanes;
  word[0] |= code << shift;
  if (shift + depth > 32) word[kStripLanes] |= code >> (32 - shift);
}

// The same in a strip in pairs.
void PutPairedCode(uint32_t code, int depth, int64_t k, uint32_t* lane) {
  const int64_t pair = k / 2, pairs = 16 / depth;
  lane[pair / pairs * kStripLanes] |= code << (pair % pairs * depth + k % 2 * 16);
}

int64_t WordsOf(const CpuPackedWeight& weight, int64_t c) {
  const std::array<int64_t, kMaxDepth + 1>& lines = weight.clusters[c].lines;
  const int64_t members = weight.cluster_members(c);
  int64_t words = 0;
  for (int b = 1; b <= kMaxDepth; ++b) {
    words += weight.partition == Partition::kColumns
                 ? StripsOf(members) * weight.WordsPerLane(lines[b], b)
                 : StripsOf(lines[b]) * weight.WordsPerLane(members, b);
  }
  return words * kStripLanes;
}

// Lays out the codes of a kColumns cluster: lines are columns of the strips.
void PutColumns(const CpuPackedWeight& weight, int64_t c, CodeReader reader, uint32_t* words) {
  const CpuPackedWeight::Cluster& cluster = weight.clusters[c];
  const int64_t members = weight.cluster_members(c);
  int64_t strip_words = 0;
  for (int b = 1; b <= kMaxDepth; ++b) {
    strip_words += weight.WordsPerLane(cluster.lines[b], b) * kStripLanes;
  }
  for (int b = kMaxDepth; b >= 1; --b) {
    const auto put = weight.InPairs(b) ? PutPairedCode : PutCode;
    for (int64_t k = 0; k < cluster.lines[b]; ++k) {
      for (int64_t i = 0; i < members; ++i) {
        put(reader.Read(b), b, k, words + i / kStripLanes * strip_words + i % kStripLanes);
      }
    }
    words += weight.WordsPerLane(cluster.lines[b], b) * kStripLanes;
  }
}

// Lays out the codes of a kRows cluster: lines are lanes of the strips.
void PutRows(const CpuPackedWeight& weight, int64_t c, CodeReader reader, uint32_t* words) {
  const CpuPackedWeight::Cluster& cluster = weight.clusters[c];
  const int64_t members = weight.cluster_members(c);
  for (int b = kMaxDepth; b >= 1; --b) {
    const int64_t strip_words = weight.WordsPerLane(members, b) * kStripLanes;
    for (int64_t line = 0; line < cluster.lines[b]; ++line) {
      uint32_t* lane = words + line / kStripLanes * strip_words + line % kStripLanes;
      for (int64_t k = 0; k < members; ++k) PutCode(reader.Read(b), b, k, lane);
    }
    words += StripsOf(cluster.lines[b]) * strip_words;
  }
}

const StripKernels* KernelsOf(PackedIsa isa) {
  switch (isa) {
    case PackedIsa::kAvx512Bf16:
    case PackedIsa::kAvx512:
      return &kStripKernelsAvx512;
    case PackedIsa::kAvx2:
      return &kStripKernelsAvx2;
    case PackedIsa::kBaseline:
      break;
  }
  return &kStripKernelsBaseline;
}

// Sorts scales and means as the strips of a kRows matrix want them.
void SortLines(const PackedMatrix& matrix, CpuPackedWeight& weight) {
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    const std::vector<int32_t> order = LineOrder(matrix, c);
    const int64_t first = c * matrix.line_count();
    for (size_t k = 0; k < order.size(); ++k) {
      weight.scale[first + k] = matrix.scale[first + order[k]];
      if (!matrix.mean.empty()) weight.mean[first + k] = matrix.mean[first + order[k]];
    }
    weight.order.insert(weight.order.end(), order.begin(), order.end());
  }
}

// Zeros; in huge pages as far as they fill some, which saves the search for pages.
uint32_t* AllocateWords(int64_t words) {
  constexpr int64_t kCacheLine = 64, kHugePage = 2 << 20;
  const int64_t bytes = std::max<int64_t>(words, 1) * sizeof(uint32_t);
  const int64_t alignment = bytes < kHugePage ? kCacheLine : kHugePage;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  // A wish, whose failure is fine.
  if (bytes >= kHugePage) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  std::memset(memory, 0, bytes);
  return static_cast<uint32_t*>(memory);
}

}  // namespace

bool IsSupported(PackedIsa isa) {
  switch (isa) {
    case PackedIsa::kAvx512Bf16:
      return HasX86V4() && __builtin_cpu_supports("avx512bf16");
    case PackedIsa::kAvx512:
      return HasX86V4();
    case PackedIsa::kAvx2:
      return HasX86V3();
    case PackedIsa::kBaseline:
      break;
  }
  return true;
}

std::shared_ptr<CpuPackedWeight> MakeCpuPackedWeight(const PackedMatrix& matrix, PackedIsa isa) {
  auto weight = std::make_shared<CpuPackedWeight>();
  weight->rows = matrix.rows;
  weight->columns = matrix.columns;
  weight->partition = matrix.partition;
  weight->cluster_size = matrix.cluster_size;
  weight->members = matrix.members;
  weight->depth = matrix.depth;
  weight->scale = matrix.scale;
  weight->mean = matrix.mean;
  weight->kernels = KernelsOf(isa);
  // Under kRows, with short sums and scales for each row, pairs would gain little.
  if (isa == PackedIsa::kAvx512Bf16 && matrix.partition == Partition::kColumns) {
    weight->pairs = &kPairKernelsAvx512Bf16;
  }
  for (int b = 1; b <= kMaxDepth; ++b) {
    const std::vector<float>& table = matrix.table[b];
    for (size_t i = 0; !table.empty() && i < std::max<size_t>(kStripLanes, table.size()); ++i) {
      weight->table[b].push_back(table[i % table.size()]);
    }
  }
  if (matrix.partition == Partition::kRows) {
    SortLines(matrix, *weight);
  } else {
    for (size_t g = 0; g < weight->depth.size(); ++g) {
      if (weight->depth[g] == 0) weight->scale[g] = 1;
    }
  }

  const int64_t lines = matrix.line_count();
  int64_t words = 0;
  weight->clusters.resize(matrix.cluster_count());
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    CpuPackedWeight::Cluster& cluster = weight->clusters[c];
    cluster.first_word = words;
    for (int64_t j = 0; j < lines; ++j) ++cluster.lines[matrix.depth[c * lines + j]];
    words += WordsOf(*weight, c);
  }
  weight->words.reset(AllocateWords(words));
  uint32_t* memory = weight->words.get();

  std::vector<uint8_t> stream;
  int64_t first_byte = 0;
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    const int64_t bytes = ClusterCodeBytes(matrix, c);
    stream.assign(matrix.codes.begin() + first_byte, matrix.codes.begin() + first_byte + bytes);
    stream.resize(bytes + CodeReader::kPadding);
    first_byte += bytes;
    const auto put = matrix.partition == Partition::kColumns ? PutColumns : PutRows;
    put(*weight, c, CodeReader(stream.data()), memory + weight->clusters[c].first_word);
  }
  return weight;
}

std::shared_ptr<CpuPackedWeight> MakeCpuPackedWeight(const PackedMatrix& matrix, DType compute) {
  static const PackedIsa exact = IsSupported(PackedIsa::kAvx512) ? PackedIsa::kAvx512
                                 : IsSupported(PackedIsa::kAvx2) ? PackedIsa::kAvx2
                                                                 : PackedIsa::kBaseline;
  static const PackedIsa rounding =
      IsSupported(PackedIsa::kAvx512Bf16) ? PackedIsa::kAvx512Bf16 : exact;
  return MakeCpuPackedWeight(matrix, compute == DType::kBF16 ? rounding : exact);
}

}  // namespace cvxq
