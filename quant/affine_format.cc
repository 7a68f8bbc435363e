#include "quant/affine_format.h"

#include <zlib.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

constexpr size_t kHeaderBytes = 20, kChecksumBytes = 4;
constexpr uint8_t kHasColumnScales = 1;

int64_t StreamBytes(int64_t count, int bits) { return (count * bits + 7) / 8; }

// Where a matrix of this shape has its sections; the last ends at `end`.
struct Sections {
  int64_t scales, zeros, column_scales, kept_columns, kept, end;
};
Sections SectionsOf(int64_t rows, int64_t columns, int64_t groups, int64_t kept, int bits,
                    bool column_scales) {
  Sections s;
  s.scales = kHeaderBytes + StreamBytes(rows * (columns - kept), bits);
  s.zeros = s.scales + 2 * rows * groups;
  s.column_scales = s.zeros + StreamBytes(rows * groups, bits);
  s.kept_columns = s.column_scales + (column_scales ? 2 * columns : 0);
  s.kept = s.kept_columns + 4 * kept;
  s.end = s.kept + 2 * rows * kept;
  return s;
}

void Put16(uint8_t* at, uint16_t value) {
  at[0] = static_cast<uint8_t>(value);
  at[1] = static_cast<uint8_t>(value >> 8);
}
void Put32(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (8 * i));
}
uint32_t Get32(const uint8_t* at) {
  return at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24;
}

void PutHalves(const std::vector<float>& values, uint8_t* at) {
  for (size_t i = 0; i < values.size(); ++i) Put16(at + 2 * i, FloatToF16(values[i]));
}
std::vector<float> GetHalves(const uint8_t* at, int64_t count) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = F16ToFloat(static_cast<uint16_t>(at[2 * i] | at[2 * i + 1] << 8));
  }
  return values;
}

// A bit stream of numbers of one width.
class BitWriter {
 public:
  BitWriter(uint8_t* at, int bits) : at_(at), bits_(bits) {}
  void Put(uint8_t value) {
    buffer_ |= static_cast<uint32_t>(value) << filled_;
    for (filled_ += bits_; filled_ >= 8; filled_ -= 8, buffer_ >>= 8) {
      *at_++ = static_cast<uint8_t>(buffer_);
    }
  }
  void Finish() {
    if (filled_ > 0) *at_ = static_cast<uint8_t>(buffer_);
  }

 private:
  uint8_t* at_;
  const int bits_;
  uint32_t buffer_ = 0;  // bits not yet written
  int filled_ = 0;       // fewer than 8 of them between numbers
};

class BitReader {
 public:
  BitReader(const uint8_t* at, int bits) : at_(at), bits_(bits) {}
  uint8_t Get() {
    for (; filled_ < bits_; filled_ += 8) buffer_ |= static_cast<uint32_t>(*at_++) << filled_;
    const auto value = static_cast<uint8_t>(buffer_ & ((1u << bits_) - 1));
    buffer_ >>= bits_;
    filled_ -= bits_;
    return value;
  }
  // Whether the bits that fill up the last byte are zeros.
  bool EndsInZeros() const { return buffer_ == 0; }

 private:
  const uint8_t* at_;
  const int bits_;
  uint32_t buffer_ = 0;
  int filled_ = 0;
};

std::vector<bool> IsKept(const AffineMatrix& m) {
  std::vector<bool> is_kept(m.columns);
  for (const int32_t column : m.kept_columns) is_kept[column] = true;
  return is_kept;
}

uint32_t Checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
}

Status Corrupt(std::string_view what) {
  return absl::DataLossError(
      absl::StrCat("the affine matrix is corrupt: ", std::string(what), "; get the file again"));
}

}  // namespace

int64_t CodeBytes(const AffineMatrix& m) {
  const auto kept = static_cast<int64_t>(m.kept_columns.size());
  return StreamBytes(m.rows * (m.columns - kept), m.bits) + 2 * m.rows * kept;
}

std::vector<uint8_t> SerializeAffineMatrix(const AffineMatrix& m) {
  const auto kept = static_cast<int64_t>(m.kept_columns.size());
  const Sections s =
      SectionsOf(m.rows, m.columns, m.group_count(), kept, m.bits, !m.column_scale.empty());
  std::vector<uint8_t> bytes(s.end + kChecksumBytes);
  Put32(&bytes[0], static_cast<uint32_t>(m.rows));
  Put32(&bytes[4], static_cast<uint32_t>(m.columns));
  Put32(&bytes[8], static_cast<uint32_t>(m.group));
  bytes[12] = static_cast<uint8_t>(m.bits);
  bytes[13] = m.column_scale.empty() ? 0 : kHasColumnScales;
  Put32(&bytes[16], static_cast<uint32_t>(kept));
  const std::vector<bool> is_kept = IsKept(m);
  BitWriter codes(&bytes[kHeaderBytes], m.bits);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.columns; ++c) {
      if (!is_kept[c]) codes.Put(m.codes[r * m.columns + c]);
    }
  }
  codes.Finish();
  PutHalves(m.scale, &bytes[s.scales]);
  BitWriter zeros(&bytes[s.zeros], m.bits);
  for (const uint8_t zero : m.zero) zeros.Put(zero);
  zeros.Finish();
  PutHalves(m.column_scale, &bytes[s.column_scales]);
  for (int64_t i = 0; i < kept; ++i) {
    Put32(&bytes[s.kept_columns + 4 * i], static_cast<uint32_t>(m.kept_columns[i]));
  }
  PutHalves(m.kept, &bytes[s.kept]);
  Put32(&bytes[s.end], Checksum({bytes.data(), static_cast<size_t>(s.end)}));
  return bytes;
}

StatusOr<AffineMatrix> ParseAffineMatrix(std::span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes + kChecksumBytes) return Corrupt("it is too short");
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  if (Checksum(body) != Get32(&bytes[body.size()])) return Corrupt("its checksum does not match");

  AffineMatrix m;
  m.rows = Get32(&bytes[0]);
  m.columns = Get32(&bytes[4]);
  m.group = Get32(&bytes[8]);
  m.bits = bytes[12];
  const uint8_t flags = bytes[13];
  const int64_t kept = Get32(&bytes[16]);
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  if (m.rows < 1 || m.columns < 1 || m.rows > kLargest || m.columns > kLargest) {
    return Corrupt("its shape is out of range");
  }
  if (m.group < 1 || m.group > kLargest) return Corrupt("its group is out of range");
  if (m.bits < 2 || m.bits > 8) return Corrupt("its width is out of range");
  if (flags > kHasColumnScales || bytes[14] != 0 || bytes[15] != 0) {
    return Corrupt("unknown flags are set");
  }
  if (kept > m.columns) return Corrupt("it keeps more columns than it has");
  // A weight takes two bits at least: a lying header is refused before it takes memory, and no
  // later product overflows.
  const auto size = static_cast<int64_t>(body.size());
  if (m.rows * m.columns > 4 * size) return Corrupt("its shape needs more bytes than there are");
  const bool column_scales = (flags & kHasColumnScales) != 0;
  const Sections s = SectionsOf(m.rows, m.columns, m.group_count(), kept, m.bits, column_scales);
  if (s.end != size) return Corrupt("it does not have the length that its header asks for");

  for (int64_t i = 0; i < kept; ++i) {
    const uint32_t column = Get32(&bytes[s.kept_columns + 4 * i]);
    if (column >= m.columns || (i > 0 && static_cast<int32_t>(column) <= m.kept_columns.back())) {
      return Corrupt("a kept column is out of range or order");
    }
    m.kept_columns.push_back(static_cast<int32_t>(column));
  }
  const std::vector<bool> is_kept = IsKept(m);
  m.codes.resize(m.rows * m.columns);
  BitReader codes(&bytes[kHeaderBytes], m.bits);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.columns; ++c) {
      if (!is_kept[c]) m.codes[r * m.columns + c] = codes.Get();
    }
  }
  const int64_t groups = m.rows * m.group_count();
  m.scale = GetHalves(&bytes[s.scales], groups);
  m.zero.resize(groups);
  BitReader zeros(&bytes[s.zeros], m.bits);
  for (uint8_t& zero : m.zero) zero = zeros.Get();
  if (!codes.EndsInZeros() || !zeros.EndsInZeros()) return Corrupt("a bit stream is not filled up");
  if (column_scales) m.column_scale = GetHalves(&bytes[s.column_scales], m.columns);
  m.kept = GetHalves(&bytes[s.kept], m.rows * kept);
  CVXQ_RETURN_IF_ERROR(m.Validate());
  return m;
}

}  // namespace cvxq
