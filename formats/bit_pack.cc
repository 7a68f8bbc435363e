#include "formats/bit_pack.h"

#include <cstring>

namespace cvxq {

void PackCodes(const uint8_t* codes, int64_t code_stride, int64_t count, int bits, uint32_t* words,
               int64_t word_stride) {
  uint64_t pending = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    pending |= static_cast<uint64_t>(codes[i * code_stride]) << filled;
    filled += bits;
    if (filled < kWordBits) continue;
    *words = static_cast<uint32_t>(pending);
    words += word_stride;
    pending >>= kWordBits;
    filled -= kWordBits;
  }
  if (filled > 0) *words = static_cast<uint32_t>(pending);
}

void UnpackCodes(const std::byte* words, int64_t word_stride, int64_t count, int bits,
                 uint8_t* codes, int64_t code_stride) {
  const uint64_t mask = (1u << bits) - 1;
  uint64_t pending = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (filled < bits) {
      uint32_t word;
      std::memcpy(&word, words, sizeof(word));
      words += word_stride * static_cast<int64_t>(sizeof(word));
      pending |= static_cast<uint64_t>(word) << filled;
      filled += kWordBits;
    }
    codes[i * code_stride] = static_cast<uint8_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
}

}  // namespace cvxq
