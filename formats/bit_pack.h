// Codes of 2 to 8 bits in 32-bit words, as GPTQ and compressed-tensors (0.18 and later) have them:
// code i is bits [i b, (i + 1) b) of one little-endian stream, so that 32 codes fill b words.
#ifndef CVXQ_FORMATS_BIT_PACK_H_
#define CVXQ_FORMATS_BIT_PACK_H_

#include <cstddef>
#include <cstdint>

namespace cvxq {

inline constexpr int kWordBits = 32;

inline int64_t WordsFor(int64_t codes, int bits) {
  return (codes * bits + kWordBits - 1) / kWordBits;
}

// Code i is codes[i * code_stride]; word j goes to words[j * word_stride].
void PackCodes(const uint8_t* codes, int64_t code_stride, int64_t count, int bits, uint32_t* words,
               int64_t word_stride);

// The inverse. `words` may be at any alignment.
void UnpackCodes(const std::byte* words, int64_t word_stride, int64_t count, int bits,
                 uint8_t* codes, int64_t code_stride);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_BIT_PACK_H_
