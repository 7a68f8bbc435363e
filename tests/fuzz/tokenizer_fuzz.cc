// Fuzz target: any bytes as a tokenizer.json. What is accepted must encode, decode and stream a
// text that has a little of everything.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "model/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer =
      cvxq::Tokenizer::Parse({reinterpret_cast<const char*>(data), size}, "tokenizer.json");
  if (!tokenizer.ok()) return 0;
  constexpr std::string_view kText =
      "<s>The  cat's 1234 \xe2\x96\x81\xce\xb1\xcc\x81\n\t\xf0\x9f\x98\x80\xff</s> "
      "aaaaaaaaaaaaaaaaaaaaaaaaaa"
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! \xe6\x97\xa5\xe6\x9c\xac";
  const auto ids = (*tokenizer)->Encode(kText, /*add_special_tokens=*/true);
  (*tokenizer)->Decode(ids, /*skip_special_tokens=*/false);
  cvxq::StreamDecoder stream(**tokenizer);
  for (const int32_t id : ids) stream.Add(id);
  stream.Flush();
  return 0;
}
