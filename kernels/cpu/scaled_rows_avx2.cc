// The scaled kernels for x86-64-v3: two registers hold the 16 lanes.
#include <immintrin.h>

#include "kernels/cpu/scaled_rows.h"

namespace cvxq {
namespace {

struct Floats {
  __m256 a, b;
};
constexpr int kSums = 4;

inline Floats LoadCodes(const int8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline Floats LoadFloats(const float* values) {
  return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
}
inline void StoreFloats(Floats values, float* to) {
  _mm256_storeu_ps(to, values.a);
  _mm256_storeu_ps(to + 8, values.b);
}
// Each lane's BF16 in its low half.
inline __m256i ToBf16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_srli_epi32(rounded, 16);
}
inline void StoreBf16(Floats values, uint16_t* to) {
  // The 128-bit halves of a and b come interleaved.
  const __m256i packed = _mm256_packus_epi32(ToBf16(values.a), ToBf16(values.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline Floats ZeroFloats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats Broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Floats Multiply(Floats x, Floats y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline Floats MultiplyAdd(Floats x, Floats y, Floats sum) {
  return {_mm256_fmadd_ps(x.a, y.a, sum.a), _mm256_fmadd_ps(x.b, y.b, sum.b)};
}

}  // namespace
}  // namespace cvxq

#include "kernels/cpu/scaled_rows_inl.h"

namespace cvxq {

const ScaledKernels kScaledKernelsAvx2 = {Multiply, Write<float>, Write<uint16_t>};

}  // namespace cvxq
