// GPT-2's alphabet: 256 printable characters that stand for the 256 bytes.
#ifndef CVXQ_MODEL_TOKENIZER_BYTES_H_
#define CVXQ_MODEL_TOKENIZER_BYTES_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {

// Bytes that print as themselves keep their code; the others get 256, 257, ... in order.
struct ByteAlphabet {
  std::array<uint16_t, 256> code_of_byte;
  std::array<int16_t, 512> byte_of_code;  // -1: not in the alphabet

  constexpr ByteAlphabet() : code_of_byte(), byte_of_code() {
    for (auto& byte : byte_of_code) byte = -1;
    uint16_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints =
          (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
      const uint16_t code = prints ? static_cast<uint16_t>(byte) : next++;
      code_of_byte[static_cast<size_t>(byte)] = code;
      byte_of_code[code] = static_cast<int16_t>(byte);
    }
  }
};
inline constexpr ByteAlphabet kByteAlphabet;

inline void AppendByteLevel(std::string_view bytes, std::string* out) {
  for (const char byte : bytes) {
    AppendUtf8(kByteAlphabet.code_of_byte[static_cast<uint8_t>(byte)], out);
  }
}

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_BYTES_H_
