#include "quant/packed_format.h"

#include <zlib.h>

#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "quant/range_coder.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr size_t kHeaderBytes = 24, kChecksumBytes = 4;
constexpr uint8_t kByRows = 1, kHasMeans = 2;

// Integers of either sign as 0, 1, 2, ...: 0, -1, 1, -2, 2.
uint32_t Fold(int32_t value) { return (static_cast<uint32_t>(value) << 1) ^ (value >> 31); }
int32_t Unfold(uint32_t folded) {
  return static_cast<int32_t>(folded >> 1) ^ -static_cast<int32_t>(folded & 1);
}

// Models a number of up to 16 bits as its bit length, then its lower bits (the two highest of them
// modelled, the rest plain).
class NumberModel {
 public:
  NumberModel() : length_(17), high_(17, SymbolModel(4)) {}

  void Encode(RangeEncoder& encoder, uint32_t number) {
    const int length = std::bit_width(number);
    length_.Encode(encoder, length);
    if (length < 2) return;
    const int rest = length - 1, modelled = std::min(rest, 2);
    high_[length].Encode(encoder, (number >> (rest - modelled)) & ((1 << modelled) - 1));
    for (int i = rest - modelled - 1; i >= 0; --i) PlainBit(encoder, (number >> i) & 1);
  }
  // Gives UINT32_MAX from a broken stream.
  uint32_t Decode(RangeDecoder& decoder) {
    const int length = length_.Decode(decoder);
    if (length > 16) return std::numeric_limits<uint32_t>::max();
    if (length < 2) return length;
    const int rest = length - 1, modelled = std::min(rest, 2);
    uint32_t number = (1u << modelled) | high_[length].Decode(decoder) % (1u << modelled);
    for (int i = rest - modelled - 1; i >= 0; --i) number = number * 2 + PlainBit(decoder);
    return number;
  }

  static void PlainBit(RangeEncoder& encoder, int bit) {
    uint16_t even = 1024;
    encoder.EncodeBit(even, bit);
  }
  static int PlainBit(RangeDecoder& decoder) {
    uint16_t even = 1024;
    return decoder.DecodeBit(even);
  }

 private:
  SymbolModel length_;
  std::vector<SymbolModel> high_;
};

// The one description of the side-information stream, run forward by both directions: it visits
// every number in order, and `code` either writes the number it is given or reads and returns one.
class SideInformation {
 public:
  SideInformation(PackedMatrix& matrix, int scale_steps, int base)
      : m_(matrix),
        steps_(scale_steps),
        base_(base),
        depth_models_(17, SymbolModel(kMaxDepth + 1)),
        mean_models_(kMaxDepth + 1) {}

  template <typename Coder>
  Status Run(Coder& coder) {
    CVXQ_RETURN_IF_ERROR(Members(coder));
    const int64_t lines = m_.line_count();
    std::vector<int> index_above(lines, 0), index(lines, 0);
    for (int64_t c = 0; c < m_.cluster_count(); ++c) {
      int last_index = 0;
      for (int64_t j = 0; j < lines; ++j) {
        const int64_t g = c * lines + j;
        const int left = j > 0 ? m_.depth[g - 1] : (c > 0 ? m_.depth[g - lines] : 4);
        const int above = c > 0 ? m_.depth[g - lines] : left;
        const int depth = Symbol(coder, depth_models_[left + above], m_.depth[g]);
        if (depth > kMaxDepth) return Broken("a depth");
        m_.depth[g] = static_cast<uint8_t>(depth);
        const int predicted = c > 0 ? (last_index + index_above[j] + 1) >> 1 : last_index;
        index[j] = predicted;
        if (depth > 0 || !m_.mean.empty()) {
          const int actual = Writing(coder) ? ScaleToIndex(m_.scale[g], steps_) - base_ : 0;
          const int64_t found = predicted + Signed(coder, scale_model_, actual - predicted);
          const int limit = 16 / steps_;
          if (found + base_ < kMinScaleIndex / limit || found + base_ > kMaxScaleIndex / limit) {
            return Broken("a scale");
          }
          index[j] = static_cast<int>(found);
          m_.scale[g] = ScaleFromIndex(index[j] + base_, steps_);
          if (!m_.mean.empty()) {
            const int mean = Writing(coder) ? MeanToIndex(m_.mean[g], m_.scale[g]) : 0;
            const int64_t got = Signed(coder, mean_models_[depth], mean);
            if (got < -kMaxMeanIndex || got > kMaxMeanIndex) return Broken("a mean");
            m_.mean[g] = MeanFromIndex(static_cast<int>(got), m_.scale[g]);
          }
        }
        last_index = index[j];
      }
      index_above.swap(index);
    }
    return absl::OkStatus();
  }

 private:
  static constexpr bool Writing(RangeEncoder&) { return true; }
  static constexpr bool Writing(RangeDecoder&) { return false; }
  static int Symbol(RangeEncoder& coder, SymbolModel& model, int value) {
    model.Encode(coder, value);
    return value;
  }
  static int Symbol(RangeDecoder& coder, SymbolModel& model, int) { return model.Decode(coder); }
  static int64_t Signed(RangeEncoder& coder, NumberModel& model, int value) {
    model.Encode(coder, Fold(value));
    return value;
  }
  static int64_t Signed(RangeDecoder& coder, NumberModel& model, int) {
    const uint32_t folded = model.Decode(coder);
    return folded == std::numeric_limits<uint32_t>::max() ? (int64_t{1} << 40) : Unfold(folded);
  }
  static Status Broken(const char* what) {
    return absl::DataLossError(absl::StrCat("the packed matrix is corrupt: ", what,
                                            " is out of range; get the file again"));
  }

  int64_t ClusterBits() const {
    return std::bit_width(static_cast<uint64_t>(m_.cluster_count() - 1));
  }

  Status Members(RangeEncoder& encoder) {
    std::vector<uint32_t> cluster(m_.members.size());
    for (size_t i = 0; i < m_.members.size(); ++i) {
      cluster[m_.members[i]] = static_cast<uint32_t>(i / m_.cluster_size);
    }
    for (const uint32_t c : cluster) {
      for (int64_t i = ClusterBits() - 1; i >= 0; --i) NumberModel::PlainBit(encoder, (c >> i) & 1);
    }
    return absl::OkStatus();
  }
  Status Members(RangeDecoder& decoder) {
    std::vector<int64_t> next(m_.cluster_count());
    for (int64_t c = 0; c < m_.cluster_count(); ++c) next[c] = m_.cluster_begin(c);
    for (int64_t member = 0; member < m_.member_count(); ++member) {
      int64_t c = 0;
      for (int64_t i = 0; i < ClusterBits(); ++i) c = c * 2 + NumberModel::PlainBit(decoder);
      if (c >= m_.cluster_count() || next[c] == m_.cluster_end(c)) return Broken("a cluster");
      m_.members[next[c]++] = static_cast<int32_t>(member);
    }
    return absl::OkStatus();
  }

  PackedMatrix& m_;
  const int steps_, base_;
  std::vector<SymbolModel> depth_models_;
  std::vector<NumberModel> mean_models_;
  NumberModel scale_model_;
};

void Put32(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (8 * i));
}
uint32_t Get32(const uint8_t* at) {
  return at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24;
}

uint32_t Checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
}

// The first index in use: differences then start from nearly nothing.
int BaseIndex(const PackedMatrix& matrix, int steps) {
  for (size_t g = 0; g < matrix.depth.size(); ++g) {
    if (matrix.depth[g] > 0 || !matrix.mean.empty()) return ScaleToIndex(matrix.scale[g], steps);
  }
  return 0;
}

Status Corrupt(std::string_view what) {
  return absl::DataLossError(
      absl::StrCat("the packed matrix is corrupt: ", std::string(what), "; get the file again"));
}

}  // namespace

int64_t CodeBytes(const PackedMatrix& matrix) {
  int64_t bytes = 0;
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) bytes += ClusterCodeBytes(matrix, c);
  return bytes;
}

std::vector<uint8_t> SerializePackedMatrix(const PackedMatrix& matrix, int scale_steps,
                                           int table_family) {
  PackedMatrix copy;  // the side information without the codes; visited, not changed
  copy.rows = matrix.rows;
  copy.columns = matrix.columns;
  copy.partition = matrix.partition;
  copy.cluster_size = matrix.cluster_size;
  copy.members = matrix.members;
  copy.depth = matrix.depth;
  copy.scale = matrix.scale;
  copy.mean = matrix.mean;
  const int base = BaseIndex(matrix, scale_steps);
  RangeEncoder encoder;
  SideInformation(copy, scale_steps, base).Run(encoder).IgnoreError();  // writing cannot fail
  const std::vector<uint8_t> side = encoder.Finish();

  std::vector<uint8_t> bytes(kHeaderBytes);
  Put32(&bytes[0], static_cast<uint32_t>(matrix.rows));
  Put32(&bytes[4], static_cast<uint32_t>(matrix.columns));
  Put32(&bytes[8], static_cast<uint32_t>(matrix.cluster_size));
  bytes[12] =
      (matrix.partition == Partition::kRows ? kByRows : 0) | (matrix.mean.empty() ? 0 : kHasMeans);
  bytes[13] = static_cast<uint8_t>(scale_steps);
  bytes[14] = static_cast<uint8_t>(table_family);
  Put32(&bytes[16], static_cast<uint32_t>(base));
  Put32(&bytes[20], static_cast<uint32_t>(side.size()));
  bytes.insert(bytes.end(), side.begin(), side.end());
  bytes.insert(bytes.end(), matrix.codes.begin(), matrix.codes.end());
  const uint32_t checksum = Checksum(bytes);
  bytes.resize(bytes.size() + kChecksumBytes);
  Put32(&bytes[bytes.size() - kChecksumBytes], checksum);
  return bytes;
}

StatusOr<PackedMatrix> ParsePackedMatrix(std::span<const uint8_t> bytes,
                                         std::span<const TableSet> tables) {
  if (bytes.size() < kHeaderBytes + kChecksumBytes) return Corrupt("it is too short");
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  if (Checksum(body) != Get32(&bytes[body.size()])) return Corrupt("its checksum does not match");

  PackedMatrix m;
  m.rows = Get32(&bytes[0]);
  m.columns = Get32(&bytes[4]);
  m.cluster_size = Get32(&bytes[8]);
  const uint8_t flags = bytes[12];
  const int steps = bytes[13], family = bytes[14];
  const int base = static_cast<int32_t>(Get32(&bytes[16]));
  const size_t side = Get32(&bytes[20]);
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  if (m.rows < 1 || m.columns < 1 || m.rows > kLargest || m.columns > kLargest) {
    return Corrupt("its shape is out of range");
  }
  if ((flags & ~(kByRows | kHasMeans)) != 0 || bytes[15] != 0)
    return Corrupt("unknown flags are set");
  m.partition = (flags & kByRows) != 0 ? Partition::kRows : Partition::kColumns;
  if (m.cluster_size < 1 || m.cluster_size > m.member_count()) {
    return Corrupt("its cluster size is out of range");
  }
  if (steps == 0 || steps > 16 || !std::has_single_bit(static_cast<unsigned>(steps)) ||
      base < kMinScaleIndex || base > kMaxScaleIndex) {
    return Corrupt("its scale grid is out of range");
  }
  if (family >= static_cast<int>(tables.size())) return Corrupt("its tables are not in the file");
  if (side > body.size() - kHeaderBytes) return Corrupt("its side information is cut off");
  // A cluster costs a member some bits, and a group of a well-made file some fraction of a bit;
  // this bound (a range-coded symbol costs at least 0.01 bit) keeps a lying header from taking
  // memory.
  const double groups = static_cast<double>(m.cluster_count()) * m.line_count();
  if (groups > 1e6 + 800.0 * bytes.size() || m.member_count() > int64_t{1} << 26) {
    return Corrupt("its header promises more groups than its bytes can hold");
  }
  m.members.resize(m.member_count());
  m.depth.resize(static_cast<size_t>(groups));
  m.scale.resize(m.depth.size());
  if ((flags & kHasMeans) != 0) m.mean.resize(m.depth.size());
  RangeDecoder decoder(body.subspan(kHeaderBytes, side));
  CVXQ_RETURN_IF_ERROR(SideInformation(m, steps, base).Run(decoder));

  const auto codes = body.subspan(kHeaderBytes + side);
  if (static_cast<int64_t>(codes.size()) != CodeBytes(m)) {
    return Corrupt("its codes do not have the length that its depths ask for");
  }
  m.codes.assign(codes.begin(), codes.end());
  m.table = tables[family];
  CVXQ_RETURN_IF_ERROR(m.Validate());
  return m;
}

}  // namespace cvxq
