#include "kernels/cuda/packed_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>

#include "tensor/dtype.h"

namespace cvxq::cuda {
namespace {

// Reads codes of b bits one after the other from a byte on.
class CodeReader {
 public:
  CodeReader(const std::vector<uint8_t>& bytes, int64_t first) : bytes_(bytes), bit_(8 * first) {}

  uint32_t Read(int depth) {
    const int64_t byte = bit_ / 8;
    uint32_t two = bytes_[byte];
    if (bit_ % 8 + depth > 8) two |= uint32_t{bytes_[byte + 1]} << 8;
    const uint32_t code = two >> (bit_ % 8) & ((1u << depth) - 1);
    bit_ += depth;
    return code;
  }

 private:
  const std::vector<uint8_t>& bytes_;
  int64_t bit_;
};

LineCounts CountLines(const PackedMatrix& matrix, int64_t cluster) {
  LineCounts counts;
  const int64_t lines = matrix.line_count();
  for (int64_t j = 0; j < lines; ++j) ++counts.lines[matrix.depth[cluster * lines + j]];
  if (matrix.mean.empty()) counts.lines[0] = 0;
  return counts;
}

int64_t TilesOf(int64_t rows, int64_t cluster_size, int strips) {
  const int64_t full = rows / cluster_size, rest = rows % cluster_size;
  return full * CeilDiv(cluster_size, kStripRows * strips) + CeilDiv(rest, kStripRows * strips);
}

// The lines of a cluster, run after run in whole steps.
void PutLines(const PackedMatrix& matrix, int64_t cluster, const std::vector<int32_t>& order,
              ColumnLayout& layout) {
  const int64_t first = cluster * matrix.line_count();
  auto next = order.begin();
  for (int b = kMaxDepth; b >= 0; --b) {
    const int64_t lines = layout.counts[cluster].lines[b];
    for (int64_t k = 0; k < lines; ++k, ++next) {
      layout.line.push_back(*next);
      layout.scale.push_back(matrix.scale[first + *next]);
      if (!matrix.mean.empty()) layout.mean.push_back(matrix.mean[first + *next]);
    }
    const int64_t size = layout.line.size() + RunPositions(lines) - lines;
    layout.line.resize(size);
    layout.scale.resize(size);
    if (!matrix.mean.empty()) layout.mean.resize(size);
  }
}

// The codes of a cluster, whose tiles have tile_words words each and begin at `words`.
void PutCodes(CodeReader reader, int64_t members, const LineCounts& counts, int strips,
              int64_t tile_words, uint32_t* words) {
  for (int b = kMaxDepth; b >= 1; --b) {
    for (int64_t position = 0; position < counts.lines[b]; ++position) {
      // Eight rows have their codes at the same bits, four lanes from one to the next.
      for (int64_t begin = 0; begin < members; begin += 8) {
        const int64_t tile = begin / (kStripRows * strips);
        const CodePlace place =
            PlaceOfCode(position, static_cast<int>(begin % (kStripRows * strips)), strips);
        uint32_t* word = words + tile * tile_words + WordOfQuarter(place.quarter, 0, place.lane, b);
        const int64_t end = std::min<int64_t>(8, members - begin);
        constexpr int kNextLane = 4;
        if (IsWhole(place.index, b)) {
          const int bit = BitOfCode(place.index, 0, b), shift = bit % 32;
          word += bit / 32 * kWarp;
          for (int64_t g = 0; g < end; ++g, word += kNextLane) {
            const uint64_t code = uint64_t{reader.Read(b)} << shift;
            word[0] |= static_cast<uint32_t>(code);
            if (shift + b > 32) word[kWarp] |= static_cast<uint32_t>(code >> 32);
          }
        } else {
          for (int64_t g = 0; g < end; ++g, word += kNextLane) {
            const uint32_t code = reader.Read(b);
            for (int k = 0; k < b; ++k) {
              const int bit = BitOfCode(place.index, k, b);
              word[bit / 32 * kWarp] |= (code >> k & 1) << (bit % 32);
            }
          }
        }
      }
    }
    words += RunWords(counts.lines[b], b, strips);
  }
}

}  // namespace

int StripsFor(int64_t rows, int64_t cluster_size) {
  int best = 1;
  for (int strips : {2, 4}) {
    const int64_t tiles = TilesOf(rows, cluster_size, strips);
    if (tiles * strips == TilesOf(rows, cluster_size, 1)) best = strips;
  }
  return best;
}

ColumnLayout LayOutColumns(const PackedMatrix& matrix, int strips) {
  ColumnLayout layout;
  layout.strips = strips;
  const int64_t tile_rows = layout.tile_rows(), clusters = matrix.cluster_count();
  layout.cluster_tiles = CeilDiv(std::min(matrix.cluster_size, matrix.member_count()), tile_rows);
  int64_t words = 0;
  std::vector<int64_t> tile_words(clusters);
  for (int64_t c = 0; c < clusters; ++c) {
    const LineCounts counts = CountLines(matrix, c);
    layout.counts.push_back(counts);
    layout.first_position.push_back(layout.line.size());
    PutLines(matrix, c, LineOrder(matrix, c), layout);
    for (int b = 0; b <= kMaxDepth; ++b) tile_words[c] += RunWords(counts.lines[b], b, strips);
    for (int64_t begin = matrix.cluster_begin(c); begin < matrix.cluster_end(c);
         begin += tile_rows) {
      layout.tile_cluster.push_back(static_cast<int32_t>(c));
      layout.tile_word.push_back(words);
      words += tile_words[c];
      for (int64_t i = begin; i < begin + tile_rows; ++i) {
        layout.rows.push_back(i < matrix.cluster_end(c) ? matrix.members[i] : -1);
      }
    }
  }
  layout.words.assign(words, 0);
  int64_t first_byte = 0;
  for (int64_t c = 0; c < clusters; ++c) {
    PutCodes(CodeReader(matrix.codes, first_byte), matrix.cluster_end(c) - matrix.cluster_begin(c),
             layout.counts[c], strips, tile_words[c],
             layout.words.data() + layout.tile_word[c * layout.cluster_tiles]);
    first_byte += ClusterCodeBytes(matrix, c);
  }
  return layout;
}

std::vector<uint32_t> JoinFields(const ColumnLayout& layout, StepFields fields) {
  const auto steps = static_cast<int64_t>(layout.line.size()) / kStepLines;
  std::vector<uint32_t> words(steps * fields.words);
  for (int64_t step = 0; step < steps; ++step) {
    uint32_t* to = words.data() + step * fields.words;
    for (int k = 0; k < kStepLines; ++k) {
      const int64_t position = step * kStepLines + k;
      const auto line = static_cast<uint32_t>(layout.line[position]);
      if (fields.wide) {
        to[k] = line;
      } else {
        to[k / 2] |= line << (k % 2 * 16);
      }
      to[fields.scale_word + k] = std::bit_cast<uint32_t>(layout.scale[position]);
      if (fields.means) {
        to[fields.mean_word + k] = std::bit_cast<uint32_t>(layout.mean[position]);
      }
    }
  }
  return words;
}

RowLayout LayOutRows(const PackedMatrix& matrix) {
  RowLayout layout;
  const int64_t M = matrix.rows, clusters = matrix.cluster_count();
  const auto members = [&](int64_t c) { return matrix.cluster_end(c) - matrix.cluster_begin(c); };
  int64_t words = 0;
  for (int64_t j = 0; j < M; ++j) {
    layout.row_word.push_back(words);
    for (int64_t c = 0; c < clusters; ++c) {
      const int64_t group = c * M + j;
      layout.group_word.push_back(static_cast<uint32_t>(words - layout.row_word[j]));
      layout.depth.push_back(matrix.depth[group]);
      layout.scale.push_back(matrix.scale[group]);
      if (!matrix.mean.empty()) layout.mean.push_back(matrix.mean[group]);
      words += CeilDiv(matrix.depth[group] * members(c), 32);
    }
  }
  layout.words.assign(words, 0);
  int64_t first_byte = 0;
  for (int64_t c = 0; c < clusters; ++c) {
    CodeReader reader(matrix.codes, first_byte);
    for (int32_t j : LineOrder(matrix, c)) {
      const int b = matrix.depth[c * M + j];
      uint32_t* to = layout.words.data() + layout.row_word[j] + layout.group_word[j * clusters + c];
      for (int64_t bit = 0; bit < b * members(c); bit += b) {
        const uint64_t code = uint64_t{reader.Read(b)} << (bit % 32);
        to[bit / 32] |= static_cast<uint32_t>(code);
        if (bit % 32 + b > 32) to[bit / 32 + 1] |= static_cast<uint32_t>(code >> 32);
      }
    }
    first_byte += ClusterCodeBytes(matrix, c);
  }
  return layout;
}

std::vector<float> JoinTables(const PackedMatrix& matrix) {
  std::vector<float> joined(kTableValues, 0.0f);
  for (int b = 1; b <= kMaxDepth; ++b) {
    std::copy(matrix.table[b].begin(), matrix.table[b].end(), joined.begin() + FirstOfTable(b));
  }
  return joined;
}

namespace {

// `round`: 16 bits of a value, given its depth.
template <typename Round>
void FillLevels(const PackedMatrix& matrix, const Round& round, Levels& levels) {
  levels.values.assign(kTableValues, 0);
  for (int b = 1; b <= kMaxDepth; ++b) {
    uint16_t* values = levels.values.data() + FirstOfTable(b);
    for (size_t i = 0; i < matrix.table[b].size(); ++i) {
      values[i] = round(b, matrix.table[b][i]);
      if (b > kMaxOctetDepth) continue;
      levels.octets[b].low[i / 4] |= uint32_t{values[i]} % 256 << (i % 4 * 8);
      levels.octets[b].high[i / 4] |= uint32_t{values[i]} / 256 << (i % 4 * 8);
    }
  }
}

}  // namespace

Levels LevelsInBF16(const PackedMatrix& matrix) {
  static constexpr float kMost = 3.3895314e38f;  // finite, so that lines that fill up add zeros
  Levels levels;
  std::fill(std::begin(levels.unit), std::end(levels.unit), 1.0f);
  FillLevels(
      matrix, [](int, float value) { return FloatToBF16(std::clamp(value, -kMost, kMost)); },
      levels);
  return levels;
}

// An integer is 256 times its high byte and its low byte, both with a sign: 127 * 256 + 127 is the
// largest of which the negative is one too.
Levels LevelsInIntegers(const PackedMatrix& matrix) {
  constexpr int kMost = 127 * 256 + 127;
  Levels levels;
  for (int b = 1; b <= kMaxDepth; ++b) {
    float most = 0;
    for (const float value : matrix.table[b]) most = std::max(most, std::abs(value));
    levels.unit[b] = most / kMost;
  }
  FillLevels(
      matrix,
      [&](int b, float value) {
        if (levels.unit[b] == 0) return uint16_t{0};
        const double of_unit = std::nearbyint(double{value} / levels.unit[b]);
        const auto level = static_cast<int>(std::clamp<double>(of_unit, -kMost, kMost));
        // The low byte is read with a sign, so that from 128 on the high byte is one more.
        return static_cast<uint16_t>(((level + 128) >> 8) * 256 + (level & 255));
      },
      levels);
  return levels;
}

}  // namespace cvxq::cuda
