// Writing text with a model, dense or packed, token by token with a cache of keys and values.
#ifndef CVXQ_PIPELINE_GENERATE_H_
#define CVXQ_PIPELINE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"

namespace cvxq {

struct GenerateOptions {
  std::string model, prompt;
  int64_t tokens = 64;     // at most so many new ones
  double temperature = 0;  // 0: always the likeliest token
  double top_p = 1;        // sample from the smallest set of tokens that has this probability
  uint64_t seed = 0;
  bool bf16 = false;  // products in BF16; the default is exact F32
  int threads = 0;
  BackendKind backend = BackendKind::kAuto;
};

struct GenerateReport {
  std::string model, text;  // what was added to the prompt
  int64_t prompt_tokens = 0, tokens = 0;
  std::string stop;  // "eos", "length" or "context"
  double seconds_prompt = 0, seconds = 0, tokens_per_second = 0;

  nlohmann::ordered_json ToJson() const;
};

// Calls `emit` with each piece of text as soon as it is whole characters. The same options give the
// same text, for any number of threads.
StatusOr<GenerateReport> Generate(const GenerateOptions& options,
                                  const std::function<void(std::string_view)>& emit);

// The token that follows, from logits: the first maximum at temperature 0, otherwise drawn with the
// uniform number u in [0, 1) from softmax(logits / temperature) cut to top_p.
int32_t SampleToken(std::span<const float> logits, double temperature, double top_p, double u);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_GENERATE_H_
