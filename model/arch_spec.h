// What a model computes, as data: one ArchSpec filled from config.json. A new family is a row in
// families.cc (which config fields it reads, which switches it sets, how its tensors are called)
// and a test; the code of the block (block.cc) asks the switches, never the family.
#ifndef CVXQ_MODEL_ARCH_SPEC_H_
#define CVXQ_MODEL_ARCH_SPEC_H_

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// The linears of a block. Models without a gate (OPT: fc1, fc2) have kUp and kDown only.
enum class LinearId : uint8_t { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };
inline constexpr int kLinearCount = 7;

// What the linears read: q, k and v share one input, gate and up another.
enum class InputId : uint8_t { kAttention, kOutput, kMlp, kDown };
inline constexpr int kInputCount = 4;
InputId InputOf(LinearId id);

enum class ResidualKind : uint8_t {
  kPre,       // x += f(norm(x))                       Llama, OPT, Qwen, Mistral
  kPost,      // x = norm(x + f(x))                    OPT-350m
  kParallel,  // n = norm(x); x += attn(n) + mlp(n)    Cohere
  kSandwich,  // x += norm(f(norm(x)))                 Gemma 2, 3
};

// How the angles of rotary positions are made (config `rope_scaling` / `rope_parameters`).
struct RopeSpec {
  RopeKind kind = RopeKind::kNone;
  double theta = 10000;
  std::string scaling = "default";  // default, linear, llama3
  double factor = 1, low_frequency_factor = 1, high_frequency_factor = 4;
  double original_context = 8192;

  bool operator==(const RopeSpec&) const = default;
};

// What may differ between the blocks of one model.
struct LayerSpec {
  int64_t window = 0;  // 0: full attention
  RopeSpec rope;
};

struct ArchSpec {
  std::string family;  // config's model_type
  int64_t layers = 0, hidden = 0, intermediate = 0, vocabulary = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int64_t max_positions = 0;

  NormKind norm = NormKind::kRms;
  double norm_epsilon = 1e-6;
  bool norm_weight = true, norm_bias = false;  // of every norm but those of q and k
  ResidualKind residual = ResidualKind::kPre;
  bool final_norm = true;

  NormKind qk_norm_kind = NormKind::kRms;
  bool qk_norm = false;           // before rope, over each head's head_dim
  bool qk_norm_per_head = false;  // weights [heads, head_dim], else [head_dim] for all heads
  double attention_scale = 1;     // scores = scale * q.k
  double attention_softcap = 0;
  ActivationKind activation = ActivationKind::kSilu;
  bool gated = true;  // act(gate) * up, else act(up)

  double embedding_scale = 1;
  bool learned_positions = false;  // OPT
  int64_t position_offset = 0;     // OPT: 2
  int64_t embedding_dim = 0;       // of the token table; differs from `hidden` with project_in/out
  double logit_scale = 1;
  double logit_softcap = 0;
  bool tied_head = false;  // the head is the token table

  std::vector<LayerSpec> layer;  // one for each block

  // The linears that must have a bias. A bias that a checkpoint holds beyond these is used too: a
  // quantised model may have got one by bias correction.
  std::array<bool, kLinearCount> bias{};

  // Tensor names without ".weight" and ".bias", the family's row of the table; "{}" stands for the
  // block's index. Empty: the architecture has no such tensor.
  struct Names {
    std::string embedding, positions, project_in, project_out, final_norm, head;
    std::array<std::string, kLinearCount> linear;
    std::string norm1;       // before attention (kPost: after)
    std::string norm1_post;  // kSandwich: after attention
    std::string norm2;       // before the MLP (kPost: after); empty for kParallel
    std::string norm2_post;  // kSandwich: after the MLP
    std::string query_norm, key_norm;
  } names;

  std::vector<LinearId> linears() const;  // those that this architecture has, in enum order
  int64_t rows(LinearId id) const;        // M
  int64_t columns(LinearId id) const;     // N
  std::string LinearName(int64_t block, LinearId id) const;  // e.g. model.layers.3.mlp.up_proj
  // Parameters of the linears of all blocks: what is quantised.
  int64_t quantized_parameters() const;
};

// Reads config.json (already parsed), as transformers 4 or 5 writes it. Families: opt, llama,
// mistral, cohere, cohere2, qwen2, qwen3, gemma2, gemma3_text. An unknown family or a value that
// would change the computation and is not known is kUnimplemented, a missing or senseless field
// kDataLoss; `where` (the file) is named.
StatusOr<ArchSpec> ParseArchSpec(const nlohmann::json& config, const std::string& where);

// "{}" in a name replaced by the block's index.
std::string BlockName(std::string_view pattern, int64_t block);

}  // namespace cvxq

#endif  // CVXQ_MODEL_ARCH_SPEC_H_
