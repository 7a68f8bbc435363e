// Fuzz target: any bytes as the JSON of a quantization_config. What is accepted must answer for any
// linear, in a time that its expressions cannot stretch.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "formats/quantization_config.h"
#include "storage/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json =
      cvxq::ParseJson({reinterpret_cast<const char*>(data), size}, "input/config.json");
  if (!json.ok()) return 0;
  const auto config = cvxq::QuantizationConfig::Parse(*json, "input/config.json");
  if (!config.ok()) return 0;
  for (const char* linear : {"model.layers.10.self_attn.q_proj", "lm_head", "",
                             "model.decoder.layers.0.aaaaaaaaaaaaaaaaaaaaaaaaaaaa.fc1"}) {
    const auto scheme = config->Of(linear);
    if (scheme.ok() && (scheme->bits < 1 || scheme->bits > 8 || scheme->group < 0))
      __builtin_trap();
  }
  return 0;
}
