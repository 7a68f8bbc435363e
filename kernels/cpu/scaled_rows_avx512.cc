// The scaled kernels for x86-64-v4: one register holds the 16 lanes.

// GCC 12 takes the "undefined" registers inside its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "kernels/cpu/scaled_rows.h"

namespace cvxq {
namespace {

using Floats = __m512;
constexpr int kSums = 16;

inline Floats LoadCodes(const int8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
inline Floats LoadFloats(const float* values) { return _mm512_loadu_ps(values); }
inline void StoreFloats(Floats values, float* to) { _mm512_storeu_ps(to, values); }
inline void StoreBf16(Floats values, uint16_t* to) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
inline Floats ZeroFloats() { return _mm512_setzero_ps(); }
inline Floats Broadcast(float value) { return _mm512_set1_ps(value); }
inline Floats Multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats MultiplyAdd(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }

}  // namespace
}  // namespace cvxq

#include "kernels/cpu/scaled_rows_inl.h"

namespace cvxq {

const ScaledKernels kScaledKernelsAvx512 = {Multiply, Write<float>, Write<uint16_t>};

}  // namespace cvxq
