// Fuzz target: any bytes as a GGUF file. What is accepted must be readable to its last byte, and
// the config and tokenizer in it either come or are refused.
#include <cstddef>
#include <cstdint>

#include "formats/gguf_architecture.h"
#include "formats/gguf_file.h"
#include "formats/gguf_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file =
      cvxq::GgufFile::Parse({reinterpret_cast<const std::byte*>(data), size}, "input.gguf");
  if (!file.ok()) return 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    if (tensor.bytes.empty()) continue;
    [[maybe_unused]] const volatile std::byte first = tensor.bytes.front();
    [[maybe_unused]] const volatile std::byte last = tensor.bytes.back();
  }
  for (const auto& [key, value] : (*file)->metadata()) {
    value.Integer();
    value.Float();
    value.Bool();
    value.String();
    value.Strings();
    value.Integers();
    value.Floats();
  }
  if (const auto config = cvxq::ConfigFromGguf(**file); config.ok()) {
    (void)cvxq::ParseArchSpec(*config, "input.gguf");
  }
  if (const auto tokenizer = cvxq::TokenizerFromGguf(**file); tokenizer.ok()) {
    (*tokenizer)->Encode("<s>The cat's 1234 \xe2\x96\x81 \xf0\x9f\x98\x80\xff", true);
  }
  return 0;
}
