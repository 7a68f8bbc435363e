// The strip kernels for x86-64-v4: one register holds the 16 lanes.

// GCC 12 takes the "undefined" registers inside its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "kernels/cpu/packed_strip.h"

namespace cvxq {
namespace {

using Words = __m512i;
using Floats = __m512;
constexpr int kSlots = 4, kBatch = 4;

inline Words LoadWords(const uint32_t* words) { return _mm512_loadu_si512(words); }
inline Words Right(Words words, int shift) { return _mm512_srli_epi32(words, shift); }
inline Words Left(Words words, int shift) { return _mm512_slli_epi32(words, shift); }
inline Words Or(Words a, Words b) { return _mm512_or_si512(a, b); }
inline Floats LoadFloats(const float* values) { return _mm512_loadu_ps(values); }
inline void StoreFloats(Floats values, float* to) { _mm512_storeu_ps(to, values); }
inline Floats ZeroFloats() { return _mm512_setzero_ps(); }
inline Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats MultiplyAdd(Floats values, const float* x, Floats sum) {
  return _mm512_fmadd_ps(values, _mm512_set1_ps(*x), sum);
}

// Up to 16 values are one permutation, 32 are one of two registers, and above that the top bit of
// the code chooses between the halves of the table. No step sees bits above the code's.
template <int b>
struct Table {
  explicit Table(const float* values) : low(values), high(values + (1 << (b - 1))) {}
  Floats operator()(Words code) const {
    const __mmask16 top = _mm512_movepi32_mask(_mm512_slli_epi32(code, 32 - b));
    return _mm512_mask_blend_ps(top, low(code), high(code));
  }
  Table<b - 1> low, high;
};

template <int b>
requires(b <= 4) struct Table<b> {
  explicit Table(const float* values) : all(_mm512_loadu_ps(values)) {}
  Floats operator()(Words code) const { return _mm512_permutexvar_ps(code, all); }
  __m512 all;
};

template <>
struct Table<5> {
  explicit Table(const float* values)
      : low(_mm512_loadu_ps(values)), high(_mm512_loadu_ps(values + 16)) {}
  Floats operator()(Words code) const { return _mm512_permutex2var_ps(low, code, high); }
  __m512 low, high;
};

}  // namespace
}  // namespace cvxq

#include "kernels/cpu/packed_strip_inl.h"

namespace cvxq {
namespace {

float Split(int64_t columns, const uint8_t* depth, const float* scale, const float* mean,
            const float* x, uint32_t depths, float** out) {
  __m512 sum = _mm512_setzero_ps();
  int64_t j = 0;
  for (; j + 16 <= columns; j += 16) {
    PrefetchColumns(depth + j, scale + j, mean == nullptr ? nullptr : mean + j);
    const __m512 x_values = _mm512_loadu_ps(x + j);
    if (mean != nullptr) sum = _mm512_fmadd_ps(x_values, _mm512_loadu_ps(mean + j), sum);
    const __m512 scaled = _mm512_mul_ps(x_values, _mm512_loadu_ps(scale + j));
    const __m128i depth_values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(depth + j));
    for (uint32_t rest = depths; rest != 0; rest &= rest - 1) {
      const int d = __builtin_ctz(rest);
      const __mmask16 here = _mm_cmpeq_epi8_mask(depth_values, _mm_set1_epi8(static_cast<char>(d)));
      _mm512_storeu_ps(out[d], _mm512_maskz_compress_ps(here, scaled));
      out[d] += __builtin_popcount(here);
    }
  }
  return _mm512_reduce_add_ps(sum) + SplitFrom(j, columns, depth, scale, mean, x, out);
}

// Rows of a 16 x 16 matrix become its columns.
inline void Transpose(__m512 (&a)[16]) {
  __m512 t[16];
  Unroll<8>([&](auto i) __attribute__((always_inline)) {
    t[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  });
  // a[4q + r]: in 128-bit lane l, element 4l + r of rows 4q .. 4q + 3.
  Unroll<4>([&](auto q) __attribute__((always_inline)) {
    Unroll<2>([&](auto h) __attribute__((always_inline)) {
      const __m512d low = _mm512_castps_pd(t[4 * q + h]);
      const __m512d high = _mm512_castps_pd(t[4 * q + h + 2]);
      a[4 * q + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      a[4 * q + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    });
  });
  Unroll<4>([&](auto r) __attribute__((always_inline)) {
    const __m512 even01 = _mm512_shuffle_f32x4(a[r], a[4 + r], 0x88);
    const __m512 even23 = _mm512_shuffle_f32x4(a[8 + r], a[12 + r], 0x88);
    const __m512 odd01 = _mm512_shuffle_f32x4(a[r], a[4 + r], 0xdd);
    const __m512 odd23 = _mm512_shuffle_f32x4(a[8 + r], a[12 + r], 0xdd);
    t[r] = _mm512_shuffle_f32x4(even01, even23, 0x88);
    t[8 + r] = _mm512_shuffle_f32x4(even01, even23, 0xdd);
    t[4 + r] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    t[12 + r] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
  });
  Unroll<16>([&](auto i) __attribute__((always_inline)) { a[i] = t[i]; });
}

inline void Store16(__m512 values, float* to) { _mm512_storeu_ps(to, values); }
inline void Store16(__m512 values, uint16_t* to) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

template <typename T>
void Write(const float* values, const int32_t* position, const float* scale, const float* mean,
           int64_t columns, int lanes, T* const* rows) {
  int64_t j = 0;
  for (; j + 16 <= columns; j += 16) {
    __m512 a[16];
    Unroll<16>([&](auto i) __attribute__((always_inline)) {
      a[i] = _mm512_mul_ps(_mm512_loadu_ps(values + int64_t{position[j + i]} * kStripLanes),
                           _mm512_set1_ps(scale[j + i]));
    });
    if (mean != nullptr) {
      Unroll<16>([&](auto i) __attribute__((always_inline)) {
        a[i] = _mm512_add_ps(a[i], _mm512_set1_ps(mean[j + i]));
      });
    }
    Transpose(a);
    if (lanes == kStripLanes) {
      Unroll<16>([&](auto i) __attribute__((always_inline)) { Store16(a[i], rows[i] + j); });
    } else {
      for (int i = 0; i < lanes; ++i) Store16(a[i], rows[i] + j);
    }
  }
  WriteFrom(j, values, position, scale, mean, columns, lanes, rows);
}

}  // namespace

const StripKernels kStripKernelsAvx512 = {Multiply, LookUp, Split, Write<float>, Write<uint16_t>};

}  // namespace cvxq
