// The decoder for x86-64-v3: the 32 lanes are four registers.
#include <immintrin.h>

#include "quant/rans_kernels.h"

namespace cvxq {
namespace {

// Eight lanes.
struct Quarter {
  __m256i state, node, column_class;
};

// For each set of lanes: how many of its lanes are below each lane, that is, which of the words
// that follow is this lane's; a byte for each lane.
struct Ranks {
  uint64_t of[256];
  constexpr Ranks() : of{} {
    for (int set = 0; set < 256; ++set) {
      int rank = 0;
      for (int lane = 0; lane < 8; ++lane) {
        of[set] |= static_cast<uint64_t>(rank) << (8 * lane);
        rank += set >> lane & 1;
      }
    }
  }
};
constexpr Ranks kRanks;

// Takes a row's symbol of each lane; returns entries shifted so that codes are the lowest bytes.
inline __m256i Step(Quarter& quarter, __m256i row_class, const uint32_t* entries,
                    __m256i next_first, __m256i next_second, const uint16_t*& words,
                    __m256i& next_node) {
  const __m256i slot_bits = _mm256_set1_epi32(kRansSlots - 1);
  __m256i table = _mm256_add_epi32(row_class, quarter.column_class);
  table = _mm256_min_epi32(_mm256_max_epi32(table, _mm256_setzero_si256()),
                           _mm256_set1_epi32(kRansLastClass));
  table = _mm256_slli_epi32(table, 12);
  // Bits of the slot from the state, of the grid from the node.
  const __m256i slot = _mm256_or_si256(_mm256_and_si256(quarter.state, slot_bits),
                                       _mm256_andnot_si256(slot_bits, quarter.node));
  const __m256i e = _mm256_i32gather_epi32(reinterpret_cast<const int*>(entries),
                                           _mm256_add_epi32(table, slot), 4);
  __m256i x = _mm256_mullo_epi32(_mm256_srli_epi32(e, 21), _mm256_srli_epi32(quarter.state, 11));
  x = _mm256_add_epi32(x, _mm256_and_si256(e, slot_bits));
  const __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
  const unsigned set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
  const __m256i next_words =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
  const __m256i rank =
      _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kRanks.of[set])));
  words += __builtin_popcount(set);
  const __m256i longer =
      _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(next_words, rank));
  quarter.state = _mm256_blendv_epi8(x, longer, low);
  const __m256i parity = _mm256_and_si256(_mm256_srli_epi32(e, 20), _mm256_set1_epi32(1));
  const __m256i from = _mm256_or_si256(quarter.node, parity);
  // A permutation sees three bits; the fourth chooses between two.
  next_node = _mm256_castps_si256(
      _mm256_blendv_ps(_mm256_castsi256_ps(_mm256_permutevar8x32_epi32(next_first, from)),
                       _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(next_second, from)),
                       _mm256_castsi256_ps(_mm256_slli_epi32(from, 28))));
  return _mm256_srli_epi32(e, 11);
}

// The lowest bytes of 32 numbers, in order.
inline __m256i Pack(const __m256i (&values)[4]) {
  const __m256i byte = _mm256_set1_epi32(255);
  const __m256i first =
      _mm256_packus_epi32(_mm256_and_si256(values[0], byte), _mm256_and_si256(values[1], byte));
  const __m256i second =
      _mm256_packus_epi32(_mm256_and_si256(values[2], byte), _mm256_and_si256(values[3], byte));
  // Fours of values 0 1 2 3, each from the lower halves of the registers and then from the upper.
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace

void DecodeRowsAvx2(RansCursor& cursor, int64_t begin, int64_t end, TakeEscapes escapes) {
  const __m256i* next_nodes = reinterpret_cast<const __m256i*>(cursor.next);
  const __m256i next_first = _mm256_loadu_si256(next_nodes);
  const __m256i next_second = _mm256_loadu_si256(next_nodes + 1);
  __m256i* const states = reinterpret_cast<__m256i*>(cursor.state);
  __m256i* const nodes = reinterpret_cast<__m256i*>(cursor.node);
  Quarter quarter[4];
  for (int i = 0; i < 4; ++i) {
    quarter[i].state = _mm256_loadu_si256(states + i);
    quarter[i].node = _mm256_loadu_si256(nodes + i);
    quarter[i].column_class = _mm256_cvtepi8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(cursor.column_class + 8 * i)));
  }
  const __m256i escape = _mm256_set1_epi8(-128);
  const uint32_t* entries = cursor.entries;
  const uint16_t* words = cursor.words;
  int8_t* codes = cursor.codes + begin * cursor.stride;
  for (int64_t r = begin; r < end; ++r, codes += cursor.stride) {
    const __m256i row_class = _mm256_set1_epi32(cursor.row_class[r]);
    __m256i symbols[4], next[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      symbols[i] = Step(quarter[i], row_class, entries, next_first, next_second, words, next[i]);
    }
    const __m256i row = Pack(symbols);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), row);
    const uint32_t escaped =
        static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(row, escape)));
    if (__builtin_expect(escaped != 0, 0)) {
      for (int i = 0; i < 4; ++i) _mm256_storeu_si256(nodes + i, quarter[i].node);
      escapes(cursor, r, escaped);
      // Lanes of escapes have moved in memory, the others in `next`.
      uint32_t moved[32];
      for (int i = 0; i < 4; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(moved) + i, next[i]);
      }
      for (uint32_t rest = escaped; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        moved[lane] = cursor.node[lane];
      }
      for (int i = 0; i < 4; ++i) {
        next[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(moved) + i);
      }
    }
    for (int i = 0; i < 4; ++i) quarter[i].node = next[i];
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_si256(states + i, quarter[i].state);
    _mm256_storeu_si256(nodes + i, quarter[i].node);
  }
  cursor.words = words;
}

}  // namespace cvxq
