// The decoder for x86-64-v4: the 32 lanes are two registers.

// GCC 12 takes the "undefined" registers inside its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "quant/rans_kernels.h"

namespace cvxq {
namespace {

// Sixteen lanes.
struct Half {
  __m512i state, node, column_class;
};

struct Constants {
  __m512i slot = _mm512_set1_epi32(kRansSlots - 1);
  __m512i low = _mm512_set1_epi32(kRansLow);
  __m512i one = _mm512_set1_epi32(1);
  __m512i last_class = _mm512_set1_epi32(kRansLastClass);
  __m512i next;
};

// Takes a row's symbol of each lane; returns codes in the lowest bytes.
inline __m128i Step(Half& half, __m512i row_class, const uint32_t* entries, const Constants& all,
                    const uint16_t*& words, __m512i& next_node) {
  __m512i table = _mm512_add_epi32(row_class, half.column_class);
  table = _mm512_min_epi32(_mm512_max_epi32(table, _mm512_setzero_si512()), all.last_class);
  table = _mm512_slli_epi32(table, 12);
  // Bits of the slot from the state, of the grid from the node.
  const __m512i slot = _mm512_ternarylogic_epi32(half.state, half.node, all.slot, 0xe4);
  const __m512i e = _mm512_i32gather_epi32(_mm512_add_epi32(table, slot), entries, 4);
  __m512i x = _mm512_mullo_epi32(_mm512_srli_epi32(e, 21), _mm512_srli_epi32(half.state, 11));
  x = _mm512_add_epi32(x, _mm512_and_si512(e, all.slot));
  const __mmask16 low = _mm512_cmplt_epu32_mask(x, all.low);
  const __m512i next_words =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
  words += __builtin_popcount(low);
  x = _mm512_mask_slli_epi32(x, low, x, 16);
  half.state = _mm512_or_si512(x, _mm512_maskz_expand_epi32(low, next_words));
  // The node with the parity below; a permutation sees the lowest four bits.
  const __m512i from =
      _mm512_ternarylogic_epi32(_mm512_srli_epi32(e, 20), half.node, all.one, 0xe4);
  next_node = _mm512_permutexvar_epi32(from, all.next);
  return _mm512_cvtepi32_epi8(_mm512_srli_epi32(e, 11));
}

}  // namespace

void DecodeRowsAvx512(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes) {
  Constants all;
  all.next = _mm512_loadu_si512(cursor.next);
  Half half[2];
  for (int i = 0; i < 2; ++i) {
    half[i].state = _mm512_loadu_si512(cursor.state + 16 * i);
    half[i].node = _mm512_loadu_si512(cursor.node + 16 * i);
    half[i].column_class = _mm512_cvtepi8_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(cursor.column_class + 16 * i)));
  }
  const __m256i escape = _mm256_set1_epi8(-128);
  const uint32_t* entries = cursor.entries;
  const uint16_t* words = cursor.words;
  int8_t* codes = cursor.codes + begin * cursor.stride;
  for (int64_t r = begin; r < end; ++r, codes += cursor.stride) {
    const __m512i row_class = _mm512_set1_epi32(cursor.row_class[r]);
    __m512i next[2];
    const __m128i first = Step(half[0], row_class, entries, all, words, next[0]);
    const __m128i second = Step(half[1], row_class, entries, all, words, next[1]);
    const __m256i row = _mm256_set_m128i(second, first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), row);
    const __mmask32 escaped = _mm256_cmpeq_epi8_mask(row, escape);
    if (__builtin_expect(escaped != 0, 0)) {
      for (int i = 0; i < 2; ++i) _mm512_storeu_si512(cursor.node + 16 * i, half[i].node);
      escapes(cursor, r, escaped);
      for (int i = 0; i < 2; ++i) {
        next[i] = _mm512_mask_loadu_epi32(next[i], static_cast<__mmask16>(escaped >> 16 * i),
                                          cursor.node + 16 * i);
      }
    }
    half[0].node = next[0];
    half[1].node = next[1];
  }
  for (int i = 0; i < 2; ++i) {
    _mm512_storeu_si512(cursor.state + 16 * i, half[i].state);
    _mm512_storeu_si512(cursor.node + 16 * i, half[i].node);
  }
  cursor.words = words;
}

}  // namespace cvxq
