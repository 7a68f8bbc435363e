#include "formats/awq_words.h"

#include <array>
#include <cstring>

namespace cvxq {
namespace {

constexpr std::array<int64_t, kAwqWord> kOutput = {0, 2, 4, 6, 1, 3, 5, 7};  // of each four bits

}  // namespace

void PackAwq(const uint8_t* codes, int64_t input_stride, int64_t output_stride, int64_t inputs,
             int64_t outputs, uint32_t* words) {
  for (int64_t k = 0; k < inputs; ++k) {
    for (int64_t first = 0; first < outputs; first += kAwqWord) {
      uint32_t word = 0;
      for (int64_t i = 0; i < kAwqWord; ++i) {
        const int64_t n = first + kOutput[i];
        word |= static_cast<uint32_t>(codes[k * input_stride + n * output_stride]) << (4 * i);
      }
      *words++ = word;
    }
  }
}

void UnpackAwq(const std::byte* words, int64_t inputs, int64_t outputs, int64_t input_stride,
               int64_t output_stride, uint8_t* codes) {
  for (int64_t k = 0; k < inputs; ++k) {
    for (int64_t first = 0; first < outputs; first += kAwqWord) {
      uint32_t word;
      std::memcpy(&word, words, sizeof(word));
      words += sizeof(word);
      for (int64_t i = 0; i < kAwqWord; ++i) {
        const int64_t n = first + kOutput[i];
        codes[k * input_stride + n * output_stride] = static_cast<uint8_t>(word >> (4 * i) & 15);
      }
    }
  }
}

}  // namespace cvxq
