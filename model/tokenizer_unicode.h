// UTF-8 and the few facts about characters that tokenizers ask for. "Valid" text is well-formed
// UTF-8; everything past Tokenizer::Encode's first step is.
#ifndef CVXQ_MODEL_TOKENIZER_UNICODE_H_
#define CVXQ_MODEL_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cvxq::tokenization {

// What stands at the front of a text: a character of `size` bytes, or, when `valid` is false, the
// maximal ill-formed part (Unicode, section 3.9), at least one byte.
struct Utf8Part {
  uint32_t code;
  int size;
  bool valid;
};
Utf8Part FirstPart(std::string_view text);  // text is not empty

// The character that starts at `at` of a valid text.
struct Utf8Char {
  uint32_t code;
  int size;
};
inline Utf8Char CharAt(std::string_view valid, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(valid[i])); };
  const uint32_t lead = byte(at);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | (byte(at + 1) & 0x3f), 2};
  if (lead < 0xf0) {
    return {(lead & 0x0f) << 12 | (byte(at + 1) & 0x3f) << 6 | (byte(at + 2) & 0x3f), 3};
  }
  return {(lead & 0x07) << 18 | (byte(at + 1) & 0x3f) << 12 | (byte(at + 2) & 0x3f) << 6 |
              (byte(at + 3) & 0x3f),
          4};
}
// The last character of a valid text that is not empty.
Utf8Char LastChar(std::string_view valid);

void AppendUtf8(uint32_t code, std::string* out);

bool IsValidUtf8(std::string_view text);
// Each maximal ill-formed part becomes one U+FFFD.
std::string RepairUtf8(std::string_view text);

// Normalisation form C of a valid text.
std::string ToNfc(std::string_view valid);

bool IsNumber(uint32_t code);      // categories Nd, Nl, No
bool IsWordChar(uint32_t code);    // letters, marks, decimal digits, connectors, joiners
bool IsWhitespace(uint32_t code);  // property White_Space

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_UNICODE_H_
