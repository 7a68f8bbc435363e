// How other tools say in config.json what they did to a checkpoint: quantization_config of
// compressed-tensors, GPTQ and AWQ. What would change a model's values or what engines compute from
// them, and is not known here, is refused.
#ifndef CVXQ_FORMATS_QUANTIZATION_CONFIG_H_
#define CVXQ_FORMATS_QUANTIZATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/tokenizer_pattern.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// How the linears of one kind are stored.
struct StoredScheme {
  enum class Layout : uint8_t { kPackedInt, kInt8, kFp8, kNvfp4, kMxfp4, kGptq, kAwq };
  Layout layout = Layout::kPackedInt;
  int bits = 4;
  bool symmetric = true;
  int64_t group = 0;      // columns; 0: whole rows, or the whole matrix
  bool one_less = false;  // zero points are stored less one (GPTQ, version 1)
  bool operator==(const StoredScheme&) const = default;
};

// "int4_g64", "int3a_channel", "fp8", "nvfp4", "mxfp4".
std::string SchemeName(const StoredScheme& scheme);

class QuantizationConfig {
 public:
  // `where` (the file) is for messages. kDataLoss for what makes no sense, kUnimplemented for what
  // is not known: another method, format or strategy, activations or caches that are quantised.
  static StatusOr<QuantizationConfig> Parse(const nlohmann::json& config, const std::string& where);

  const std::string& method() const { return method_; }
  // Of a linear of the model that is stored quantised ("model.layers.0.mlp.up_proj"). kDataLoss
  // where the config says nothing of it, or that it is not quantised.
  StatusOr<StoredScheme> Of(const std::string& linear) const;

 private:
  // A name, a regular expression that begins at the name's first letter, or every linear.
  struct Target {
    std::string name;
    std::optional<tokenization::Pattern> expression;
    bool every = false;
    bool Matches(const std::string& linear) const;
  };
  struct Rule {
    Target target;
    std::optional<StoredScheme> scheme;  // nullopt: left as it is
  };
  static StatusOr<Target> ParseTarget(std::string text);
  Status ParseCompressed(const nlohmann::json& config);
  Status ParseGptq(const nlohmann::json& config);
  Status ParseAwq(const nlohmann::json& config);

  std::string where_, method_;
  std::vector<Rule> rules_;  // the first that matches counts
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_QUANTIZATION_CONFIG_H_
