// Values of quantised linears.
#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/awq_words.h"
#include "formats/bit_pack.h"
#include "formats/float_codes.h"
#include "formats/stored_matrix.h"
#include "formats/stored_tensors.h"

namespace cvxq {
namespace {

using Layout = StoredScheme::Layout;

template <typename T>
T Element(const HostTensor& tensor, int64_t i) {
  T value;
  std::memcpy(&value, tensor.data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

float Rounded(float value, DType dtype) {
  if (dtype == DType::kF32) return value;
  return dtype == DType::kF16 ? F16ToFloat(FloatToF16(value)) : BF16ToFloat(FloatToBF16(value));
}

// Everything decoded but the weights: scales and zero points [M, groups], and each column's group.
struct Grids {
  std::vector<float> scale;
  std::vector<int16_t> zero;
  std::vector<int32_t> group;  // of columns
};

// Codes of old versions: as many as fit a word, from its lowest bit on.
void UnpackPadded(const std::byte* words, int64_t word_stride, int64_t count, int bits,
                  uint8_t* codes, int64_t code_stride) {
  const int64_t each = kWordBits / bits;
  for (int64_t i = 0; i < count; i += each) {
    UnpackCodes(words + i / each * word_stride * 4, 1, std::min(each, count - i), bits,
                codes + i * code_stride, code_stride);
  }
}

StatusOr<Grids> ReadGrids(const LinearTensors& tensors, const StoredMatrix& m) {
  const bool words = m.scheme.layout == Layout::kGptq || m.scheme.layout == Layout::kAwq;
  const int64_t M = m.rows, G = m.groups;
  const int bits = m.scheme.bits;
  Grids grids{.scale = std::vector<float>(M * G), .zero = std::vector<int16_t>(M * G), .group = {}};
  CVXQ_ASSIGN_OR_RETURN(const HostTensor scale_tensor,
                        tensors.Get(words ? ".scales" : ".weight_scale"));
  CVXQ_ASSIGN_OR_RETURN(const std::vector<float> scales, ToFloats(scale_tensor));
  for (int64_t r = 0; r < M; ++r) {
    for (int64_t g = 0; g < G; ++g) {
      const float scale = m.one_scale ? scales[0] : scales[words ? g * M + r : r * G + g];
      grids.scale[r * G + g] = Rounded(scale, m.dtype);
    }
  }
  std::vector<uint8_t> zeros(M * G);
  switch (m.scheme.layout) {
    case Layout::kPackedInt: {
      const auto half = static_cast<uint8_t>(1 << (bits - 1));
      std::fill(zeros.begin(), zeros.end(), half);
      if (m.scheme.symmetric) break;
      CVXQ_ASSIGN_OR_RETURN(const HostTensor packed, tensors.Get(".weight_zero_point"));
      const auto unpack = m.padded_words ? UnpackPadded : UnpackCodes;
      for (int64_t g = 0; g < G; ++g) unpack(packed.data + 4 * g, G, M, bits, &zeros[g], G);
      break;
    }
    case Layout::kInt8: {
      if (m.scheme.symmetric) break;
      CVXQ_ASSIGN_OR_RETURN(const HostTensor stored, tensors.Get(".weight_zero_point"));
      for (int64_t i = 0; i < M * G; ++i) grids.zero[i] = Element<int8_t>(stored, i);
      return grids;
    }
    case Layout::kGptq: {
      CVXQ_ASSIGN_OR_RETURN(const HostTensor packed, tensors.Get(".qzeros"));
      const int64_t each = WordsFor(M, bits);
      for (int64_t g = 0; g < G; ++g) {
        UnpackCodes(packed.data + 4 * g * each, 1, M, bits, &zeros[g], G);
      }
      break;
    }
    case Layout::kAwq: {
      CVXQ_ASSIGN_OR_RETURN(const HostTensor packed, tensors.Get(".qzeros"));
      UnpackAwq(packed.data, G, M, 1, G, zeros.data());
      break;
    }
    default:
      break;
  }
  for (int64_t i = 0; i < M * G; ++i) {
    grids.zero[i] = static_cast<int16_t>(zeros[i] + (m.scheme.one_less ? 1 : 0));
  }
  return grids;
}

// Writes value(r, c) of row r at `out` [N] in the matrix's type.
template <typename Value>
void WriteRow(const StoredMatrix& m, std::byte* out, Value&& value) {
  for (int64_t c = 0; c < m.columns; ++c) {
    const float v = value(c);
    if (m.dtype == DType::kF32) {
      std::memcpy(out + 4 * c, &v, sizeof(v));
    } else {
      const uint16_t half = m.dtype == DType::kF16 ? FloatToF16(v) : FloatToBF16(v);
      std::memcpy(out + 2 * c, &half, sizeof(half));
    }
  }
}

using FillRow = std::function<void(int64_t row, std::byte* out)>;

StatusOr<std::vector<std::byte>> DecodeRows(const StoredMatrix& m, ThreadPool& pool,
                                            const FillRow& fill) {
  const int64_t row_bytes = m.columns * ByteSize(m.dtype);
  std::vector<std::byte> values(m.rows * row_bytes);
  pool.ParallelFor(m.rows, [&](int64_t r) { fill(r, &values[r * row_bytes]); });
  return values;
}

StatusOr<std::vector<std::byte>> DecodeInts(const LinearTensors& tensors, const StoredMatrix& m,
                                            ThreadPool& pool) {
  const Layout layout = m.scheme.layout;
  const bool words = layout == Layout::kGptq || layout == Layout::kAwq;
  const int64_t M = m.rows, N = m.columns, G = m.groups;
  const int bits = m.scheme.bits;
  CVXQ_ASSIGN_OR_RETURN(Grids grids, ReadGrids(tensors, m));
  grids.group.resize(N);
  const int64_t group = m.scheme.group > 0 ? m.scheme.group : N;
  for (int64_t c = 0; c < N; ++c) grids.group[c] = static_cast<int32_t>(c / group);
  if (m.has_order) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor order, tensors.Get(".g_idx"));
    for (int64_t c = 0; c < N; ++c) {
      grids.group[c] = Element<int32_t>(order, c);
      if (grids.group[c] < 0 || grids.group[c] >= G) {
        return tensors.Wrong(".g_idx", absl::StrCat("names the group ", grids.group[c]));
      }
    }
  }
  CVXQ_ASSIGN_OR_RETURN(const HostTensor codes,
                        tensors.Get(words                          ? ".qweight"
                                    : layout == Layout::kPackedInt ? ".weight_packed"
                                                                   : ".weight"));
  std::vector<uint8_t> awq(layout == Layout::kAwq ? M * N : 0);
  if (layout == Layout::kAwq) UnpackAwq(codes.data, N, M, 1, N, awq.data());
  const int64_t row_words = m.padded_words ? PaddedWords(N, bits) : WordsFor(N, bits);
  return DecodeRows(m, pool, [&](int64_t r, std::byte* out) {
    const float* scale = &grids.scale[r * G];
    const int16_t* zero = &grids.zero[r * G];
    const auto value = [&](int64_t c, int code) {
      const int32_t g = grids.group[c];
      return static_cast<float>(code - zero[g]) * scale[g];
    };
    if (layout == Layout::kInt8) {
      WriteRow(m, out, [&](int64_t c) { return value(c, Element<int8_t>(codes, r * N + c)); });
      return;
    }
    std::vector<uint8_t> row(N);
    if (layout == Layout::kAwq) {
      std::copy_n(&awq[r * N], N, row.begin());
    } else if (layout == Layout::kGptq) {
      UnpackCodes(codes.data + 4 * r, M, N, bits, row.data(), 1);
    } else {
      const auto unpack = m.padded_words ? UnpackPadded : UnpackCodes;
      unpack(codes.data + 4 * r * row_words, 1, N, bits, row.data(), 1);
    }
    WriteRow(m, out, [&](int64_t c) { return value(c, row[c]); });
  });
}

StatusOr<std::vector<std::byte>> DecodeFp8(const LinearTensors& tensors, const StoredMatrix& m,
                                           ThreadPool& pool) {
  CVXQ_ASSIGN_OR_RETURN(const Grids grids, ReadGrids(tensors, m));
  CVXQ_ASSIGN_OR_RETURN(const HostTensor codes, tensors.Get(".weight"));
  return DecodeRows(m, pool, [&](int64_t r, std::byte* out) {
    WriteRow(m, out, [&](int64_t c) {
      return E4M3ToFloat(Element<uint8_t>(codes, r * m.columns + c)) * grids.scale[r];
    });
  });
}

StatusOr<std::vector<std::byte>> DecodeFp4(const LinearTensors& tensors, const StoredMatrix& m,
                                           ThreadPool& pool) {
  const bool nv = m.scheme.layout == Layout::kNvfp4;
  CVXQ_ASSIGN_OR_RETURN(const HostTensor codes, tensors.Get(".weight_packed"));
  CVXQ_ASSIGN_OR_RETURN(const HostTensor scales, tensors.Get(".weight_scale"));
  float divisor = 1;
  if (nv) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor global, tensors.Get(".weight_global_scale"));
    divisor = Element<float>(global, 0);
  }
  return DecodeRows(m, pool, [&](int64_t r, std::byte* out) {
    WriteRow(m, out, [&](int64_t c) {
      const auto bits = Element<uint8_t>(scales, r * m.groups + c / m.scheme.group);
      const float scale = nv ? E4M3ToFloat(bits) / divisor : E8M0ToFloat(bits);
      const auto pair = Element<uint8_t>(codes, (r * m.columns + c) / 2);
      const int code = E2M1Code(c % 2 == 0 ? pair & 15 : pair >> 4);
      return kE2M1Levels[code] * scale;
    });
  });
}

}  // namespace

StatusOr<std::vector<std::byte>> DecodeStoredMatrix(const Checkpoint& checkpoint,
                                                    const StoredMatrix& matrix, ThreadPool& pool) {
  const LinearTensors tensors(checkpoint, matrix.name);
  switch (matrix.scheme.layout) {
    case Layout::kFp8:
      return DecodeFp8(tensors, matrix, pool);
    case Layout::kNvfp4:
    case Layout::kMxfp4:
      return DecodeFp4(tensors, matrix, pool);
    default:
      return DecodeInts(tensors, matrix, pool);
  }
}

}  // namespace cvxq
