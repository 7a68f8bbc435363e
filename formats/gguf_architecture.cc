// The table of architectures, and what llama.cpp cannot compute of a family.
#include "formats/gguf_architecture.h"

#include <array>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"

namespace cvxq {
namespace {

constexpr std::array kArchitectures = {
    GgufArchitecture{.family = "llama",
                     .name = "llama",
                     .pairs_adjacent = true,
                     .rope_divisors = true,
                     .own_head = true,
                     .matrix_scales = true,
                     .biases = "qkvogud"},
    GgufArchitecture{.family = "mistral",
                     .name = "llama",
                     .pairs_adjacent = true,
                     .rope_divisors = true,
                     .own_head = true,
                     .matrix_scales = true,
                     .biases = "qkvogud"},
    GgufArchitecture{.family = "qwen2",
                     .name = "qwen2",
                     .own_head = true,
                     .square_attention = true,
                     .biases = "qkv"},
    GgufArchitecture{.family = "qwen3", .name = "qwen3", .own_head = true, .matrix_scales = true},
    GgufArchitecture{.family = "cohere", .name = "command-r", .square_attention = true},
    GgufArchitecture{.family = "cohere2",
                     .name = "cohere2",
                     .matrix_scales = true,
                     .square_attention = true,
                     .window_period = 4},
    GgufArchitecture{.family = "gemma2",
                     .name = "gemma2",
                     .norm_plus_one = true,
                     .window_period = 2,
                     .other_scale_layers = 46},
    GgufArchitecture{.family = "gemma3_text",
                     .name = "gemma3",
                     .norm_plus_one = true,
                     .window_period = 6,
                     .other_scale_layers = 62},
};

constexpr std::string_view kLetters = "qkvogud";  // of linears, in the order of LinearId
constexpr int64_t kQkNormLayers = 64;             // command-r with fewer blocks has no such norms

Status CheckWindows(const GgufArchitecture& architecture, const ArchSpec& spec) {
  if (architecture.window_period == 0) return absl::OkStatus();
  int64_t window = 0, period = 0;  // the first full block ends the first period
  for (int64_t i = 0; i < spec.layers; ++i) {
    if (spec.layer[i].window == 0 && period == 0) period = i + 1;
    if (window == 0) window = spec.layer[i].window;
  }
  if (period == 0) period = architecture.window_period;
  for (int64_t i = 0; i < spec.layers; ++i) {
    const bool full = (i + 1) % period == 0;
    if (window == 0 || period == 1 || spec.layer[i].window != (full ? 0 : window)) {
      return absl::UnimplementedError(
          "its blocks with a window do not alternate as llama.cpp has it");
    }
  }
  return absl::OkStatus();
}

Status CheckRope(const GgufArchitecture& architecture, const ArchSpec& spec) {
  for (const LayerSpec& layer : spec.layer) {
    if (layer.rope.scaling == "llama3" && !architecture.rope_divisors) {
      return absl::UnimplementedError("it scales positions as Llama 3 does");
    }
    if (layer.window > 0 && spec.family == "gemma3_text" && layer.rope.scaling != "default") {
      return absl::UnimplementedError("it scales positions of blocks with a window");
    }
  }
  return absl::OkStatus();
}

Status CheckScores(const GgufArchitecture& architecture, const ArchSpec& spec) {
  const int64_t width =
      spec.layers == architecture.other_scale_layers ? spec.hidden / spec.heads : spec.head_dim;
  if (std::abs(spec.attention_scale * std::sqrt(static_cast<double>(width)) - 1) > 1e-6) {
    return absl::UnimplementedError(
        absl::StrCat("its scores are not scaled by the root of ", width,
                     " (query_pre_attn_scalar), as llama.cpp does in a model of its size"));
  }
  const bool capped = spec.family == "gemma2";
  if ((spec.attention_softcap > 0) != capped || (spec.logit_softcap > 0) != capped) {
    return absl::UnimplementedError(capped ? "it caps no scores or no logits"
                                           : "it caps scores or logits");
  }
  return absl::OkStatus();
}

Status CheckShape(const GgufArchitecture& architecture, const ArchSpec& spec) {
  if (!architecture.own_head && !spec.tied_head) {
    return absl::UnimplementedError("it has a head of its own, not the token table");
  }
  if (architecture.square_attention && int64_t{spec.heads} * spec.head_dim != spec.hidden) {
    return absl::UnimplementedError("its heads together are not as wide as hidden_size");
  }
  if (spec.family == "cohere" && spec.qk_norm != (spec.layers >= kQkNormLayers)) {
    return absl::UnimplementedError(
        "only models of 64 blocks and more have norms of queries and keys (use_qk_norm)");
  }
  const ActivationKind activation =
      architecture.norm_plus_one ? ActivationKind::kGeluTanh : ActivationKind::kSilu;
  if (spec.activation != activation) return absl::UnimplementedError("it has another activation");
  for (size_t i = 0; i < spec.bias.size(); ++i) {
    if (spec.bias[i] && !architecture.ReadsBias(static_cast<LinearId>(i))) {
      return absl::UnimplementedError("it has biases that llama.cpp does not read");
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool GgufArchitecture::ReadsBias(LinearId id) const {
  return biases.find(kLetters[static_cast<int>(id)]) != std::string_view::npos;
}

StatusOr<const GgufArchitecture*> FindGgufArchitecture(std::string_view family) {
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.family == family) return &row;
  }
  return absl::UnimplementedError(absl::StrCat("GGUF has no place for a model of the family ",
                                               std::string(family),
                                               "; export it as compressed-tensors, gptq or awq"));
}

const GgufArchitecture* FindGgufArchitectureByName(std::string_view name) {
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

Status CheckGgufModel(const GgufArchitecture& architecture, const ArchSpec& spec) {
  for (const auto check : {CheckShape, CheckScores, CheckRope, CheckWindows}) {
    if (const Status status = check(architecture, spec); !status.ok()) {
      return absl::UnimplementedError(absl::StrCat(
          "GGUF cannot hold this model, ", std::string(status.message()), " (architecture ",
          std::string(architecture.name), "); export it as compressed-tensors, gptq or awq"));
    }
  }
  return absl::OkStatus();
}

}  // namespace cvxq
