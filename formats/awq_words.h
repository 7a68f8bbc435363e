// The words of AWQ's GEMM layout: eight neighbouring outputs of 4 bits each, in an order of their
// own.
#ifndef CVXQ_FORMATS_AWQ_WORDS_H_
#define CVXQ_FORMATS_AWQ_WORDS_H_

#include <cstddef>
#include <cstdint>

namespace cvxq {

inline constexpr int64_t kAwqWord = 8;  // outputs

// words[k, c], k < inputs, c < outputs / 8, of codes[k * input_stride + n * output_stride].
void PackAwq(const uint8_t* codes, int64_t input_stride, int64_t output_stride, int64_t inputs,
             int64_t outputs, uint32_t* words);

// The inverse; `words` may be at any alignment.
void UnpackAwq(const std::byte* words, int64_t inputs, int64_t outputs, int64_t input_stride,
               int64_t output_stride, uint8_t* codes);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_AWQ_WORDS_H_
