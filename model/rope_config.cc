#include "model/rope_config.h"

#include <algorithm>
#include <string_view>

namespace cvxq {
namespace {

// One dictionary: {"rope_type": "llama3", "factor": 8, ...}, with `theta` if it names none.
RopeSpec ReadScaling(ConfigReader& outer, const nlohmann::json& object, const std::string& prefix,
                     RopeKind kind, double theta, int64_t max_positions) {
  ConfigReader read(object, outer.where(), prefix);
  RopeSpec rope;
  rope.kind = kind;
  rope.theta = read.Positive("rope_theta", theta);
  rope.scaling = read.String("rope_type", read.String("type", "default"));
  if (rope.scaling == "linear" || rope.scaling == "llama3") {
    rope.factor = read.Positive("factor");
  } else if (rope.scaling != "default") {
    read.Unsupported("rope_type", absl::StrCat("\"", rope.scaling,
                                               "\" is not supported (default, linear, llama3)"));
  }
  if (rope.scaling == "llama3") {
    rope.low_frequency_factor = read.Positive("low_freq_factor");
    rope.high_frequency_factor = read.Positive("high_freq_factor");
    rope.original_context = read.Positive("original_max_position_embeddings", max_positions);
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      read.Broken("high_freq_factor", "must be above low_freq_factor");
    }
  }
  read.Expect("partial_rotary_factor", 1.0);
  constexpr std::string_view kKnown[] = {"rope_theta",
                                         "rope_type",
                                         "type",
                                         "factor",
                                         "low_freq_factor",
                                         "high_freq_factor",
                                         "partial_rotary_factor",
                                         "original_max_position_embeddings"};
  if (object.is_object()) {
    for (const auto& [field, value] : object.items()) {
      if (!value.is_null() &&
          std::find(std::begin(kKnown), std::end(kKnown), field) == std::end(kKnown)) {
        read.Unsupported(field, "is not a known field of rotary positions");
      }
    }
  }
  outer.Keep(read.status());
  return rope;
}

}  // namespace

RopePair ReadRope(ConfigReader& read, RopeKind kind, double theta, double local_theta,
                  int64_t max_positions) {
  if (kind == RopeKind::kNone) return {};
  const nlohmann::json* scaling = read.Find("rope_scaling");
  const nlohmann::json* parameters = read.Find("rope_parameters");
  if (scaling != nullptr && parameters != nullptr) {
    read.Broken("rope_parameters", "and rope_scaling are both there; keep one");
  }
  theta = read.Positive("rope_theta", theta);
  const double windowed_theta =
      local_theta == 0 ? theta : read.Positive("rope_local_base_freq", local_theta);

  const nlohmann::json none = nlohmann::json::object();
  const auto spec = [&](const nlohmann::json* object, const std::string& prefix, double missing) {
    return ReadScaling(read, object ? *object : none, prefix, kind, missing, max_positions);
  };
  if (parameters == nullptr) {  // transformers 4: no scaling where the thetas differ
    const RopeSpec full = spec(scaling, "rope_scaling.", theta);
    return {full, local_theta == 0 ? full : spec(nullptr, "", windowed_theta)};
  }
  ConfigReader nested(*parameters, read.where(), "rope_parameters.");
  const nlohmann::json* full = nested.Find("full_attention");
  const nlohmann::json* windowed = nested.Find("sliding_attention");
  if (full != nullptr || windowed != nullptr) {
    return {spec(full, "rope_parameters.full_attention.", theta),
            spec(windowed, "rope_parameters.sliding_attention.", windowed_theta)};
  }
  if (local_theta != 0) {
    read.Broken("rope_parameters", "must hold full_attention and sliding_attention");
  }
  const RopeSpec all = spec(parameters, "rope_parameters.", theta);
  return {all, all};
}

}  // namespace cvxq
