// The pair kernels (packed_strip.h): one lookup gives 32 levels in BF16, and one instruction
// multiplies them with two columns' x and adds.

// GCC 12 takes the "undefined" registers inside its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "kernels/cpu/packed_strip.h"

namespace cvxq {
namespace {

// Sums kept for one row of x, so that additions need not wait; the same for any batch, so that
// results are too.
constexpr int kSlots = 6;
// How far ahead weights are asked for: the processor's own prefetching ends at each page.
constexpr int kPrefetchWords = 2048;
constexpr int kPrefetchColumns = 512;

template <int value>
struct Constant {
  constexpr operator int() const { return value; }
};

// body(Constant<k>) for k in [0, count).
template <int count, int k = 0, typename Body>
__attribute__((always_inline)) inline void Unroll(Body&& body) {
  if constexpr (k < count) {
    body(Constant<k>{});
    Unroll<count, k + 1>(body);
  }
}

// The fewest words whose pairs go round the slots without rest.
constexpr int BlockWords(int pairs) {
  int words = 1;
  while (words * pairs % kSlots != 0) ++words;
  return words;
}

// The table in BF16, repeated until every 5-bit index has a value: no code needs a mask.
inline __m512i Bf16Table(int depth, const float* table) {
  const __m512 low = _mm512_loadu_ps(table);
  const __m512 high = depth == kMaxPairDepth ? _mm512_loadu_ps(table + 16) : low;
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

template <int b, int batch>
void MultiplyBatch(const uint32_t* words, int64_t columns, const float* table, const float* x,
                   int64_t x_stride, float* sums) {
  constexpr int kPairs = 16 / b, kBlock = BlockWords(kPairs);
  const __m512i levels = Bf16Table(b, table);
  __m512 sum[batch][kSlots];
  Unroll<batch * kSlots>([&](auto i) __attribute__((always_inline)) {
    sum[i / kSlots][i % kSlots] = _mm512_setzero_ps();
  });
  const auto add = [&](__m512i codes, const float* pair, auto slot) __attribute__((always_inline)) {
    const __m512bh values = (__m512bh)_mm512_permutexvar_epi16(codes, levels);
    Unroll<batch>([&](auto t) __attribute__((always_inline)) {
      sum[t][slot] =
          _mm512_dpbf16_ps(sum[t][slot], values, (__m512bh)_mm512_set1_ps(pair[t * x_stride]));
    });
  };
  int64_t pairs = (columns + 1) / 2;
  for (; pairs >= kPairs * kBlock; pairs -= kPairs * kBlock) {
    Unroll<kBlock>([&](auto w) __attribute__((always_inline)) {
      __builtin_prefetch(words + w * kStripLanes + kPrefetchWords);
      const __m512i word = _mm512_loadu_si512(words + w * kStripLanes);
      Unroll<kPairs>([&](auto p) __attribute__((always_inline)) {
        constexpr int kPair = w * kPairs + p;
        add(p == 0 ? word : _mm512_srli_epi16(word, p * b), x + kPair, Constant<kPair % kSlots>{});
      });
    });
    words += kBlock * kStripLanes;
    x += kBlock * kPairs;
  }
  for (; pairs > 0; pairs -= kPairs) {
    __m512i word = _mm512_loadu_si512(words);
    for (int p = 0; p < kPairs && p < pairs; ++p) {
      add(word, x + p, Constant<0>{});
      word = _mm512_srli_epi16(word, b);
    }
    words += kStripLanes;
    x += kPairs;
  }
  Unroll<batch>([&](auto t) __attribute__((always_inline)) {
    __m512 total = _mm512_loadu_ps(sums + t * kStripLanes);
    Unroll<kSlots>([&](auto slot) __attribute__((always_inline)) {
      total = _mm512_add_ps(total, sum[t][slot]);
    });
    _mm512_storeu_ps(sums + t * kStripLanes, total);
  });
}

template <int b>
void MultiplyDepth(const uint32_t* words, int64_t columns, const float* table, const float* x,
                   int64_t x_stride, int batch, float* sums) {
  while (batch > 0) {
    const int step = batch >= 4 ? 4 : batch >= 2 ? 2 : 1;
    const auto multiply = step == 4   ? MultiplyBatch<b, 4>
                          : step == 2 ? MultiplyBatch<b, 2>
                                      : MultiplyBatch<b, 1>;
    multiply(words, columns, table, x, x_stride, sums);
    batch -= step;
    x += step * x_stride;
    sums += step * kStripLanes;
  }
}

void Multiply(int depth, const uint32_t* words, int64_t columns, const float* table, const float* x,
              int64_t x_stride, int batch, float* sums) {
  static constexpr decltype(&MultiplyDepth<1>) kDepths[] = {nullptr,          MultiplyDepth<1>,
                                                            MultiplyDepth<2>, MultiplyDepth<3>,
                                                            MultiplyDepth<4>, MultiplyDepth<5>};
  kDepths[depth](words, columns, table, x, x_stride, batch, sums);
}

void LookUp(int depth, const uint32_t* words, int64_t columns, const float* table, float* values) {
  const __m512 low = _mm512_loadu_ps(table);
  const __m512 high = depth == kMaxPairDepth ? _mm512_loadu_ps(table + 16) : low;
  const int pairs = 16 / depth;
  for (int64_t k = 0; k < columns; words += kStripLanes) {
    const __m512i word = _mm512_loadu_si512(words);
    for (int p = 0; p < pairs && k < columns; ++p) {
      const __m512i even = _mm512_srli_epi32(word, p * depth);
      _mm512_storeu_ps(values + k++ * kStripLanes, _mm512_permutex2var_ps(low, even, high));
      if (k == columns) break;
      const __m512i odd = _mm512_srli_epi32(even, 16);
      _mm512_storeu_ps(values + k++ * kStripLanes, _mm512_permutex2var_ps(low, odd, high));
    }
  }
}

float Split(int64_t columns, const uint8_t* depth, const float* scale, const float* mean,
            const float* x, uint32_t depths, float** out) {
  // Where the next value goes, in bytes: 2 each in pairs, otherwise 4.
  char* next[9];
  for (int d = 1; d <= 8; ++d) next[d] = reinterpret_cast<char*>(out[d]);
  __m512 sum = _mm512_setzero_ps();
  const auto split16 = [&](__m128i depth_values, __m512 scaled) __attribute__((always_inline)) {
    for (uint32_t rest = depths; rest != 0; rest &= rest - 1) {
      const int d = __builtin_ctz(rest);
      const __mmask16 here = _mm_cmpeq_epi8_mask(depth_values, _mm_set1_epi8(static_cast<char>(d)));
      const __m512 chosen = _mm512_maskz_compress_ps(here, scaled);
      if (d <= kMaxPairDepth) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(next[d]),
                            (__m256i)_mm512_cvtneps_pbh(chosen));
        next[d] += 2 * __builtin_popcount(here);
      } else {
        _mm512_storeu_ps(next[d], chosen);
        next[d] += 4 * __builtin_popcount(here);
      }
    }
  };
  int64_t j = 0;
  for (; j + 16 <= columns; j += 16) {
    __builtin_prefetch(depth + j + kPrefetchColumns);
    __builtin_prefetch(scale + j + kPrefetchColumns);
    if (mean != nullptr) __builtin_prefetch(mean + j + kPrefetchColumns);
    const __m512 x_values = _mm512_loadu_ps(x + j);
    if (mean != nullptr) sum = _mm512_fmadd_ps(x_values, _mm512_loadu_ps(mean + j), sum);
    split16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(depth + j)),
            _mm512_mul_ps(x_values, _mm512_loadu_ps(scale + j)));
  }
  if (j < columns) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (columns - j)) - 1);
    const __m512 x_values = _mm512_maskz_loadu_ps(rest, x + j);
    if (mean != nullptr) {
      sum = _mm512_fmadd_ps(x_values, _mm512_maskz_loadu_ps(rest, mean + j), sum);
    }
    split16(_mm_maskz_loadu_epi8(rest, depth + j),
            _mm512_mul_ps(x_values, _mm512_maskz_loadu_ps(rest, scale + j)));
  }
  // The partner of a last column without one.
  for (int d = 1; d <= kMaxPairDepth; ++d) {
    if ((depths >> d & 1) != 0) __builtin_memset(next[d], 0, 2);
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace

const PairKernels kPairKernelsAvx512Bf16 = {Multiply, LookUp, Split};

}  // namespace cvxq
