#include "quant/scaled_format.h"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <tuple>

#include "quant/range_coder.h"
#include "quant/rans.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

constexpr size_t kFixedBytes = 5, kChecksumBytes = 4;
constexpr int kClassBits = 7, kIndexBits = 12, kLeanBits = 3;
constexpr int kMinClass = -kSymbolClasses, kMaxClass = kSymbolClasses - 1;

Status Corrupt(std::string_view what) {
  return absl::DataLossError(
      absl::StrCat("the scaled matrix is corrupt: ", std::string(what), "; get the file again"));
}

void PutPlain(RangeEncoder& encoder, int value, int bits) {
  for (int i = bits - 1; i >= 0; --i) encoder.EncodeEven(value >> i & 1);
}
int GetPlain(RangeDecoder& decoder, int bits) {
  int value = 0;
  for (int i = 0; i < bits; ++i) value = value * 2 + decoder.DecodeEven();
  return value;
}

// A sequence of numbers, each told as the difference to a guess.
struct Guesses {
  bool from_before;  // the number before, or one number for all
  int first;
  int lean;       // of scales on classes, in 1/4; 0 for classes themselves
  int steps;      // of scales to an octave
  int low, high;  // what numbers can be
  std::span<const int8_t> classes;

  int Lean(size_t i) const {
    if (lean == 0) return 0;
    return (2 * lean * classes[i] * steps + 16) >> 5;
  }
  template <typename T>
  int Of(std::span<const T> values, size_t i) const {
    const int guess = from_before && i > 0 ? values[i - 1] + Lean(i - 1) : first;
    return std::clamp(guess - Lean(i), low, high);
  }
  // The first guess that is right on average.
  template <typename T>
  int Mean(std::span<const T> values) const {
    int64_t sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[i] + Lean(i);
    const double mean = static_cast<double>(sum) / static_cast<double>(values.size());
    return std::clamp(static_cast<int>(std::lround(mean)), low, high);
  }
};

// The guesses of the least sum of differences.
template <typename T>
Guesses BestGuesses(std::span<const T> values, Guesses guesses, int leans) {
  Guesses best = guesses;
  int64_t least = -1;
  for (guesses.lean = 0; guesses.lean < leans; ++guesses.lean) {
    guesses.first = guesses.Mean(values);
    for (const bool from_before : {false, true}) {
      guesses.from_before = from_before;
      int64_t sum = 0;
      for (size_t i = 0; i < values.size(); ++i) sum += std::abs(values[i] - guesses.Of(values, i));
      if (least >= 0 && sum >= least) continue;
      least = sum;
      best = guesses;
    }
  }
  return best;
}

template <typename T>
void PutSequence(RangeEncoder& encoder, std::span<const T> values, const Guesses& guesses) {
  SignedModel model;
  for (size_t i = 0; i < values.size(); ++i) {
    model.Encode(encoder, values[i] - guesses.Of(values, i));
  }
}
template <typename T>
bool GetSequence(RangeDecoder& decoder, std::span<T> values, const Guesses& guesses) {
  SignedModel model;
  for (size_t i = 0; i < values.size(); ++i) {
    const int value = guesses.Of(std::span<const T>(values), i) + model.Decode(decoder);
    if (value < guesses.low || value > guesses.high) return false;
    values[i] = static_cast<T>(value);
  }
  return true;
}

constexpr Guesses kClassGuesses{false, 0, 0, 1, kMinClass, kMaxClass, {}};

void PutClasses(RangeEncoder& encoder, std::span<const int8_t> classes) {
  const Guesses guesses = BestGuesses(classes, kClassGuesses, 1);
  encoder.EncodeEven(guesses.from_before ? 1 : 0);
  PutPlain(encoder, guesses.first + (1 << kClassBits) / 2, kClassBits);
  PutSequence(encoder, classes, guesses);
}
bool GetClasses(RangeDecoder& decoder, std::span<int8_t> classes) {
  Guesses guesses = kClassGuesses;
  guesses.from_before = decoder.DecodeEven() != 0;
  guesses.first = GetPlain(decoder, kClassBits) - (1 << kClassBits) / 2;
  return GetSequence(decoder, classes, guesses);
}

Guesses ScaleGuesses(int steps, std::span<const int8_t> classes) {
  return {false, 0, 0, steps, kMinScaleIndex * steps / 16, kMaxScaleIndex * steps / 16, classes};
}
void PutScales(RangeEncoder& encoder, std::span<const int16_t> scales, int steps,
               std::span<const int8_t> classes) {
  const Guesses guesses = BestGuesses(scales, ScaleGuesses(steps, classes), 1 << kLeanBits);
  encoder.EncodeEven(guesses.from_before ? 1 : 0);
  PutPlain(encoder, guesses.lean, kLeanBits);
  PutPlain(encoder, guesses.first + (1 << kIndexBits) / 2, kIndexBits);
  PutSequence(encoder, scales, guesses);
}
bool GetScales(RangeDecoder& decoder, std::span<int16_t> scales, int steps,
               std::span<const int8_t> classes) {
  Guesses guesses = ScaleGuesses(steps, classes);
  guesses.from_before = decoder.DecodeEven() != 0;
  guesses.lean = GetPlain(decoder, kLeanBits);
  guesses.first = GetPlain(decoder, kIndexBits) - (1 << kIndexBits) / 2;
  return GetSequence(decoder, scales, guesses);
}

void PutCount(std::vector<uint8_t>& bytes, uint64_t value) {
  for (; value >= 128; value >>= 7) bytes.push_back(static_cast<uint8_t>(value % 128 + 128));
  bytes.push_back(static_cast<uint8_t>(value));
}
int64_t CountBytes(uint64_t value) { return (std::bit_width(value | 1) + 6) / 7; }

// What is left of the bytes; each call takes some from the front.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : rest_(bytes) {}

  size_t size() const { return rest_.size(); }
  bool Take(size_t size, std::span<const uint8_t>& to) {
    if (size > rest_.size()) return false;
    to = rest_.first(size);
    rest_ = rest_.subspan(size);
    return true;
  }
  // At most 35 bits.
  bool Count(size_t& to) {
    to = 0;
    for (int shift = 0; shift < 35; shift += 7) {
      std::span<const uint8_t> byte;
      if (!Take(1, byte)) return false;
      to |= static_cast<size_t>(byte[0] & 127) << shift;
      if (byte[0] < 128) return true;
    }
    return false;
  }

 private:
  std::span<const uint8_t> rest_;
};

uint32_t Checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
}
void PutChecksum(std::vector<uint8_t>& bytes, size_t begin) {
  const uint32_t checksum = Checksum(std::span(bytes).subspan(begin));
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(checksum >> (8 * i)));
}

void ForEach(ThreadPool* pool, int64_t count, const std::function<void(int64_t)>& body) {
  if (pool != nullptr) return pool->ParallelFor(count, body);
  for (int64_t i = 0; i < count; ++i) body(i);
}

// Everything before the first chunk, and the seeds.
struct Front {
  Front(const ScaledCodes& codes, const RansLayout& layout);
  std::span<const uint16_t> seeds_of(const RansLayout& layout, int64_t chunk) const {
    return std::span(seeds).subspan(chunk * layout.lanes, layout.lanes);
  }
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> seeds;  // [chunks, lanes]
};

Front::Front(const ScaledCodes& codes, const RansLayout& layout) {
  RangeEncoder class_coder;
  PutClasses(class_coder, codes.row_class);
  PutClasses(class_coder, codes.column_class);
  const std::vector<uint8_t> classes = class_coder.Finish();
  RangeEncoder scale_coder;
  PutScales(scale_coder, codes.row_scale, codes.scale_steps, codes.row_class);
  PutScales(scale_coder, codes.column_scale, codes.scale_steps, codes.column_class);
  std::vector<uint8_t> scales = scale_coder.Finish();
  seeds.resize(layout.chunks * layout.lanes);
  const size_t in_seeds = 2 * seeds.size();
  if (scales.size() < in_seeds) scales.resize(in_seeds);
  std::memcpy(seeds.data(), scales.data(), in_seeds);

  bytes.resize(kFixedBytes);
  bytes[0] = static_cast<uint8_t>(std::countr_zero(static_cast<unsigned>(codes.scale_steps)));
  std::memcpy(&bytes[1], &codes.gain, 4);
  PutCount(bytes, codes.rows);
  PutCount(bytes, codes.columns);
  PutCount(bytes, codes.trellis_rows);
  PutCount(bytes, classes.size());
  PutCount(bytes, scales.size() - in_seeds);
  bytes.insert(bytes.end(), classes.begin(), classes.end());
  bytes.insert(bytes.end(), scales.begin() + static_cast<int64_t>(in_seeds), scales.end());
}

// One chunk in the bytes, and everything that its checksum covers.
struct ChunkBytes {
  std::span<const uint8_t> words, escapes, checked, checksum;
  bool ChecksumHolds() const {
    uint32_t stored;
    std::memcpy(&stored, checksum.data(), 4);
    return Checksum(checked) == stored;
  }
};

}  // namespace

std::vector<uint8_t> SerializeScaledMatrix(const ScaledCodes& codes, const EntropyTables& tables,
                                           ThreadPool* pool) {
  const RansLayout layout(codes.rows, codes.columns);
  Front front(codes, layout);
  std::vector<RansChunk> chunks(layout.chunks);
  ForEach(pool, layout.chunks, [&](int64_t i) {
    chunks[i] = EncodeChunk(codes, tables, layout, i, front.seeds_of(layout, i));
  });
  std::vector<uint8_t> bytes = std::move(front.bytes);
  size_t begin = 0;
  for (const RansChunk& chunk : chunks) {
    PutCount(bytes, chunk.words.size());
    PutCount(bytes, chunk.escapes.size());
    const size_t at = bytes.size();
    bytes.resize(at + 2 * chunk.words.size());
    std::memcpy(&bytes[at], chunk.words.data(), 2 * chunk.words.size());
    bytes.insert(bytes.end(), chunk.escapes.begin(), chunk.escapes.end());
    PutChecksum(bytes, begin);
    begin = bytes.size();
  }
  return bytes;
}

int64_t ScaledMatrixBytes(const ScaledCodes& codes, const EntropyTables& tables, ThreadPool* pool) {
  const RansLayout layout(codes.rows, codes.columns);
  const Front front(codes, layout);
  std::vector<RansChunkSize> sizes(layout.chunks);
  ForEach(pool, layout.chunks, [&](int64_t i) {
    sizes[i] = EncodedSize(codes, tables, layout, i, front.seeds_of(layout, i));
  });
  int64_t bytes = static_cast<int64_t>(front.bytes.size());
  for (const RansChunkSize& size : sizes) {
    bytes += CountBytes(size.words) + CountBytes(size.escapes) + 2 * size.words + size.escapes +
             static_cast<int64_t>(kChecksumBytes);
  }
  return bytes;
}

StatusOr<ScaledMatrix> ParseScaledMatrix(std::span<const uint8_t> bytes,
                                         const EntropyTables& tables, int64_t rows, int64_t columns,
                                         ThreadPool* pool) {
  Reader reader(bytes);
  std::span<const uint8_t> fixed, class_bytes, scale_bytes;
  size_t stored_rows, stored_columns, stored_trellis, class_size, scale_size;
  if (!reader.Take(kFixedBytes, fixed) || !reader.Count(stored_rows) ||
      !reader.Count(stored_columns) || !reader.Count(stored_trellis) || !reader.Count(class_size) ||
      !reader.Count(scale_size)) {
    return Corrupt("its header is cut off");
  }
  if (static_cast<int64_t>(stored_rows) != rows ||
      static_cast<int64_t>(stored_columns) != columns) {
    return Corrupt(absl::StrCat("it says that it is ", stored_rows, " x ", stored_columns, ", not ",
                                rows, " x ", columns));
  }
  if (!reader.Take(class_size, class_bytes) || !reader.Take(scale_size, scale_bytes)) {
    return Corrupt("its side information is cut off");
  }
  if (rows < 1 || columns < 1) return Corrupt("its shape is empty");

  // Where the chunks are.
  const RansLayout layout(rows, columns);
  const auto chunk_error = [&](int64_t i, std::string_view what) {
    return Corrupt(absl::StrCat("chunk ", i + 1, " of ", layout.chunks, " ", std::string(what)));
  };
  if (static_cast<int64_t>(reader.size()) < layout.chunks) return Corrupt("its chunks are cut off");
  std::vector<ChunkBytes> chunks(layout.chunks);
  for (int64_t i = 0; i < layout.chunks; ++i) {
    const size_t begin = i == 0 ? 0 : bytes.size() - reader.size();
    size_t words, escapes;
    if (!reader.Count(words) || !reader.Count(escapes) ||
        !reader.Take(2 * words, chunks[i].words) || !reader.Take(escapes, chunks[i].escapes)) {
      return chunk_error(i, "is cut off");
    }
    chunks[i].checked = bytes.subspan(begin, bytes.size() - reader.size() - begin);
    if (!reader.Take(kChecksumBytes, chunks[i].checksum)) return chunk_error(i, "is cut off");
  }
  if (reader.size() != 0) return Corrupt("bytes follow its last chunk");
  constexpr std::string_view kWrongChecksum = "does not match its checksum";
  if (!chunks[0].ChecksumHolds()) return chunk_error(0, kWrongChecksum);

  if (fixed[0] > 4) return Corrupt("its scale steps are out of range");
  const int steps = 1 << fixed[0];
  const int64_t trellis_rows = static_cast<int64_t>(stored_trellis);
  if (trellis_rows >= rows) return Corrupt("its trellis starts anew below its last row");
  float gain;
  std::memcpy(&gain, &fixed[1], 4);
  std::vector<int8_t> row_class(rows), column_class(columns);
  RangeDecoder class_decoder(class_bytes);
  if (!GetClasses(class_decoder, row_class) || !GetClasses(class_decoder, column_class)) {
    return Corrupt("a class is out of range");
  }

  ScaledMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.codes.resize(rows * columns);
  std::vector<uint16_t> seeds(layout.chunks * layout.lanes);
  std::vector<std::vector<ScaledOutlier>> outliers(layout.chunks);
  std::vector<Status> statuses(layout.chunks);
  const DecodeRows decode = DecodersHere().back();
  const RansContext context{tables, layout, trellis_rows, row_class, column_class};
  ForEach(pool, layout.chunks, [&](int64_t i) {
    if (i > 0 && !chunks[i].ChecksumHolds()) {
      statuses[i] = chunk_error(i, kWrongChecksum);
      return;
    }
    const Status status =
        DecodeChunk(context, i, chunks[i].words, chunks[i].escapes, decode, matrix.codes.data(),
                    outliers[i], std::span(seeds).subspan(i * layout.lanes, layout.lanes));
    if (!status.ok()) statuses[i] = chunk_error(i, std::string(status.message()));
  });
  for (const Status& status : statuses) CVXQ_RETURN_IF_ERROR(status);
  for (const std::vector<ScaledOutlier>& some : outliers) {
    matrix.outliers.insert(matrix.outliers.end(), some.begin(), some.end());
  }
  std::sort(matrix.outliers.begin(), matrix.outliers.end(),
            [](const ScaledOutlier& a, const ScaledOutlier& b) {
              return std::tie(a.row, a.column) < std::tie(b.row, b.column);
            });

  std::vector<uint8_t> scale_stream(2 * seeds.size() + scale_bytes.size());
  std::memcpy(scale_stream.data(), seeds.data(), 2 * seeds.size());
  std::copy(scale_bytes.begin(), scale_bytes.end(),
            scale_stream.begin() + static_cast<int64_t>(2 * seeds.size()));
  std::vector<int16_t> row_scale(rows), column_scale(columns);
  RangeDecoder scale_decoder(scale_stream);
  if (!GetScales(scale_decoder, row_scale, steps, row_class) ||
      !GetScales(scale_decoder, column_scale, steps, column_class)) {
    return Corrupt("a scale is out of range");
  }
  for (const int index : row_scale) {
    matrix.row_scale.push_back(gain * ScaleFromIndex(index, steps));
    if (!(matrix.row_scale.back() > 0) || std::isinf(matrix.row_scale.back())) {
      return Corrupt("a scale is out of range");
    }
  }
  for (const int index : column_scale) {
    matrix.column_scale.push_back(ScaleFromIndex(index, steps));
  }
  return matrix;
}

}  // namespace cvxq
