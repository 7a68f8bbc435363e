// The strip kernels for x86-64-v3: two registers hold the 16 lanes.
#include <immintrin.h>

#include "kernels/cpu/packed_strip.h"

namespace cvxq {
namespace {

struct Words {
  __m256i a, b;
};
struct Floats {
  __m256 a, b;
};
constexpr int kSlots = 2, kBatch = 2;

inline Words LoadWords(const uint32_t* words) {
  const auto* from = reinterpret_cast<const __m256i*>(words);
  return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}
inline Words Right(Words words, int shift) {
  return {_mm256_srli_epi32(words.a, shift), _mm256_srli_epi32(words.b, shift)};
}
inline Words Left(Words words, int shift) {
  return {_mm256_slli_epi32(words.a, shift), _mm256_slli_epi32(words.b, shift)};
}
inline Words Or(Words x, Words y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline Floats LoadFloats(const float* values) {
  return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
}
inline void StoreFloats(Floats values, float* to) {
  _mm256_storeu_ps(to, values.a);
  _mm256_storeu_ps(to + 8, values.b);
}
inline Floats ZeroFloats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats Add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Floats MultiplyAdd(Floats values, const float* x, Floats sum) {
  const __m256 broadcast = _mm256_broadcast_ss(x);
  return {_mm256_fmadd_ps(values.a, broadcast, sum.a), _mm256_fmadd_ps(values.b, broadcast, sum.b)};
}

// Up to 8 values are one permutation, which sees the low 3 bits only. For 4 and 5 bits the top bit
// of the code chooses between the halves of the table; above that, gathers are faster.
template <int b>
struct Table {
  explicit Table(const float* values) : all(values) {}
  __m256 operator()(__m256i code) const {
    return _mm256_i32gather_ps(all, _mm256_and_si256(code, _mm256_set1_epi32((1 << b) - 1)), 4);
  }
  Floats operator()(Words code) const { return {(*this)(code.a), (*this)(code.b)}; }
  const float* all;
};

template <int b>
requires(b == 4 || b == 5) struct Table<b> {
  explicit Table(const float* values) : low(values), high(values + (1 << (b - 1))) {}
  __m256 operator()(__m256i code) const {
    const __m256 top = _mm256_castsi256_ps(_mm256_slli_epi32(code, 32 - b));
    return _mm256_blendv_ps(low(code), high(code), top);
  }
  Floats operator()(Words code) const { return {(*this)(code.a), (*this)(code.b)}; }
  Table<b - 1> low, high;
};

template <int b>
requires(b <= 3) struct Table<b> {
  explicit Table(const float* values) : all(_mm256_loadu_ps(values)) {}
  __m256 operator()(__m256i code) const { return _mm256_permutevar8x32_ps(all, code); }
  Floats operator()(Words code) const { return {(*this)(code.a), (*this)(code.b)}; }
  __m256 all;
};

}  // namespace
}  // namespace cvxq

#include "kernels/cpu/packed_strip_inl.h"

namespace cvxq {
namespace {

// index[mask]: the positions of the set bits of mask, then anything.
struct CompressIndex {
  constexpr CompressIndex() {
    for (int mask = 0; mask < 256; ++mask) {
      int count = 0;
      for (int bit = 0; bit < 8; ++bit) {
        if (mask >> bit & 1) index[mask][count++] = static_cast<uint8_t>(bit);
      }
    }
  }
  alignas(8) uint8_t index[256][8] = {};
};
constexpr CompressIndex kCompress;

float Split(int64_t columns, const uint8_t* depth, const float* scale, const float* mean,
            const float* x, uint32_t depths, float** out) {
  __m256 sum = _mm256_setzero_ps();
  int64_t j = 0;
  for (; j + 8 <= columns; j += 8) {
    PrefetchColumns(depth + j, scale + j, mean == nullptr ? nullptr : mean + j);
    const __m256 x_values = _mm256_loadu_ps(x + j);
    if (mean != nullptr) sum = _mm256_fmadd_ps(x_values, _mm256_loadu_ps(mean + j), sum);
    const __m256 scaled = _mm256_mul_ps(x_values, _mm256_loadu_ps(scale + j));
    const __m256i depth_values =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(depth + j)));
    for (uint32_t rest = depths; rest != 0; rest &= rest - 1) {
      const int d = __builtin_ctz(rest);
      const int here = _mm256_movemask_ps(
          _mm256_castsi256_ps(_mm256_cmpeq_epi32(depth_values, _mm256_set1_epi32(d))));
      const __m256i index = _mm256_cvtepu8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kCompress.index[here])));
      _mm256_storeu_ps(out[d], _mm256_permutevar8x32_ps(scaled, index));
      out[d] += __builtin_popcount(static_cast<unsigned>(here));
    }
  }
  float lane[8], total = 0;
  _mm256_storeu_ps(lane, sum);
  for (float value : lane) total += value;
  return total + SplitFrom(j, columns, depth, scale, mean, x, out);
}

template <typename T>
void Write(const float* values, const int32_t* position, const float* scale, const float* mean,
           int64_t columns, int lanes, T* const* rows) {
  WriteFrom(0, values, position, scale, mean, columns, lanes, rows);
}

}  // namespace

const StripKernels kStripKernelsAvx2 = {Multiply, LookUp, Split, Write<float>, Write<uint16_t>};

}  // namespace cvxq
