// A tokenizer for tests of what surrounds one: each byte is its own token.
#ifndef CVXQ_TESTS_PIPELINE_BYTE_TOKENIZER_H_
#define CVXQ_TESTS_PIPELINE_BYTE_TOKENIZER_H_

#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace cvxq {

class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256, kEos = 257;

  explicit ByteTokenizer(bool bos = true, bool eos = true) : bos_(bos), eos_(eos) {}

  std::vector<int32_t> Encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    encoded_bytes_ += static_cast<int64_t>(text.size());
    return ids;
  }
  std::string Decode(const std::vector<int32_t>& ids, bool) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 256) text += static_cast<char>(id);
    }
    return text;
  }
  bool IsByteToken(int32_t) const override { return false; }
  int64_t vocabulary() const override { return 258; }
  std::optional<int32_t> bos() const override {
    return bos_ ? std::optional<int32_t>(kBos) : std::nullopt;
  }
  std::vector<int32_t> eos() const override {
    return eos_ ? std::vector<int32_t>{kEos} : std::vector<int32_t>{};
  }

  int64_t encoded_bytes() const { return encoded_bytes_; }

 private:
  bool bos_, eos_;
  mutable int64_t encoded_bytes_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_PIPELINE_BYTE_TOKENIZER_H_
