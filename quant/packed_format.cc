#include "quant/packed_format.h"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
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

constexpr int kDepthBits = 4, kIndexBits = 12, kIndexOffset = 2048;

// The one description of the side-information stream, run forward by both directions: it visits
// every number in order and either writes it or reads it.
class SideInformation {
 public:
  SideInformation(PackedMatrix& matrix, int scale_steps) : m_(matrix), steps_(scale_steps) {}

  template <typename Coder>
  Status Run(Coder& coder) {
    CVXQ_RETURN_IF_ERROR(Members(coder));
    const int64_t lines = m_.line_count();
    for (int64_t c = 0; c < m_.cluster_count(); ++c) {
      const auto [depth_mean, index_mean] = Means(coder, c);
      for (int64_t j = 0; j < lines; ++j) {
        const int64_t g = c * lines + j;
        const int expected = c > 0 ? m_.depth[g - lines] : depth_mean;
        const int depth = expected + Code(coder, depth_models_[c > 0 ? expected : kFirst],
                                          m_.depth[g] - expected);
        if (depth < 0 || depth > kMaxDepth) return Broken("a depth");
        m_.depth[g] = static_cast<uint8_t>(depth);
        if (depth == 0 && m_.mean.empty()) continue;
        const int index = index_mean + Code(coder, scale_models_[depth], Index(g) - index_mean);
        const int limit = 16 / steps_;
        if (index < kMinScaleIndex / limit || index > kMaxScaleIndex / limit) {
          return Broken("a scale");
        }
        m_.scale[g] = ScaleFromIndex(index, steps_);
        if (m_.mean.empty()) continue;
        const int mean = Code(coder, mean_models_[depth], MeanToIndex(m_.mean[g], m_.scale[g]));
        if (mean < -kMaxMeanIndex || mean > kMaxMeanIndex) return Broken("a mean");
        m_.mean[g] = MeanFromIndex(mean, m_.scale[g]);
      }
    }
    return absl::OkStatus();
  }

 private:
  static constexpr int kFirst = kMaxDepth + 1;  // context of the first cluster's depths

  static int Code(RangeEncoder& coder, SignedModel& model, int value) {
    model.Encode(coder, value);
    return value;
  }
  static int Code(RangeDecoder& coder, SignedModel& model, int) { return model.Decode(coder); }
  static Status Broken(const char* what) {
    return absl::DataLossError(absl::StrCat("the packed matrix is corrupt: ", what,
                                            " is out of range; get the file again"));
  }

  int Index(int64_t group) const { return ScaleToIndex(m_.scale[group], steps_); }

  // Mean depth and mean scale index of a cluster, rounded.
  std::pair<int, int> Means(RangeEncoder& encoder, int64_t c) {
    const int64_t lines = m_.line_count();
    int64_t depths = 0, indices = 0, coded = 0;
    for (int64_t g = c * lines; g < (c + 1) * lines; ++g) {
      depths += m_.depth[g];
      if (m_.depth[g] == 0 && m_.mean.empty()) continue;
      indices += Index(g);
      ++coded;
    }
    const int depth = static_cast<int>((2 * depths + lines) / (2 * lines));
    const int index = coded == 0 ? 0
                                 : static_cast<int>(std::lround(static_cast<double>(indices) /
                                                                static_cast<double>(coded)));
    PutPlain(encoder, depth, kDepthBits);
    PutPlain(encoder, index + kIndexOffset, kIndexBits);
    return {depth, index};
  }
  std::pair<int, int> Means(RangeDecoder& decoder, int64_t) {
    const int depth = std::min<int>(kMaxDepth, static_cast<int>(GetPlain(decoder, kDepthBits)));
    return {depth, static_cast<int>(GetPlain(decoder, kIndexBits)) - kIndexOffset};
  }

  static void PutPlain(RangeEncoder& encoder, uint64_t value, int bits) {
    for (int i = bits - 1; i >= 0; --i) encoder.EncodeEven((value >> i) & 1);
  }
  static uint64_t GetPlain(RangeDecoder& decoder, int bits) {
    uint64_t value = 0;
    for (int i = 0; i < bits; ++i) value = value * 2 + decoder.DecodeEven();
    return value;
  }
  int ClusterBits() const { return std::bit_width(static_cast<uint64_t>(m_.cluster_count() - 1)); }

  Status Members(RangeEncoder& encoder) {
    std::vector<uint32_t> cluster(m_.members.size());
    for (size_t i = 0; i < m_.members.size(); ++i) {
      cluster[m_.members[i]] = static_cast<uint32_t>(i / m_.cluster_size);
    }
    for (const uint32_t c : cluster) PutPlain(encoder, c, ClusterBits());
    return absl::OkStatus();
  }
  Status Members(RangeDecoder& decoder) {
    std::vector<int64_t> next(m_.cluster_count());
    for (int64_t c = 0; c < m_.cluster_count(); ++c) next[c] = m_.cluster_begin(c);
    for (int64_t member = 0; member < m_.member_count(); ++member) {
      const int64_t c = static_cast<int64_t>(GetPlain(decoder, ClusterBits()));
      if (c >= m_.cluster_count() || next[c] == m_.cluster_end(c)) return Broken("a cluster");
      m_.members[next[c]++] = static_cast<int32_t>(member);
    }
    return absl::OkStatus();
  }

  PackedMatrix& m_;
  const int steps_;
  std::array<SignedModel, kMaxDepth + 2> depth_models_;
  std::array<SignedModel, kMaxDepth + 1> scale_models_, mean_models_;
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
  RangeEncoder encoder;
  SideInformation(copy, scale_steps).Run(encoder).IgnoreError();  // writing cannot fail
  const std::vector<uint8_t> side = encoder.Finish();

  std::vector<uint8_t> bytes(kHeaderBytes);
  Put32(&bytes[0], static_cast<uint32_t>(matrix.rows));
  Put32(&bytes[4], static_cast<uint32_t>(matrix.columns));
  Put32(&bytes[8], static_cast<uint32_t>(matrix.cluster_size));
  bytes[12] =
      (matrix.partition == Partition::kRows ? kByRows : 0) | (matrix.mean.empty() ? 0 : kHasMeans);
  bytes[13] = static_cast<uint8_t>(scale_steps);
  bytes[14] = static_cast<uint8_t>(table_family);
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
  const size_t side = Get32(&bytes[20]);
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  if (m.rows < 1 || m.columns < 1 || m.rows > kLargest || m.columns > kLargest) {
    return Corrupt("its shape is out of range");
  }
  if ((flags & ~(kByRows | kHasMeans)) != 0 || bytes[15] != 0 || Get32(&bytes[16]) != 0) {
    return Corrupt("unknown flags are set");
  }
  m.partition = (flags & kByRows) != 0 ? Partition::kRows : Partition::kColumns;
  if (m.cluster_size < 1 || m.cluster_size > m.member_count()) {
    return Corrupt("its cluster size is out of range");
  }
  if (steps == 0 || steps > 16 || !std::has_single_bit(static_cast<unsigned>(steps))) {
    return Corrupt("its scale grid is out of range");
  }
  if (family >= static_cast<int>(tables.size())) return Corrupt("its tables are not in the file");
  if (side > body.size() - kHeaderBytes) return Corrupt("its side information is cut off");
  // A group costs a range-coded symbol at least, which is 0.011 bit at least; a member costs a bit
  // of its cluster or, where there is one cluster, of its code (unless all is pruned). These bounds
  // keep a lying header from taking memory.
  const double groups = static_cast<double>(m.cluster_count()) * m.line_count();
  if (groups > 1e6 + 800.0 * side || m.member_count() > 1e6 + 8.0 * bytes.size()) {
    return Corrupt("its header promises more groups than its bytes can hold");
  }
  m.members.resize(m.member_count());
  m.depth.resize(static_cast<size_t>(groups));
  m.scale.resize(m.depth.size());
  if ((flags & kHasMeans) != 0) m.mean.resize(m.depth.size());
  RangeDecoder decoder(body.subspan(kHeaderBytes, side));
  CVXQ_RETURN_IF_ERROR(SideInformation(m, steps).Run(decoder));

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
