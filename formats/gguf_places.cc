// Tensors by their names in the checkpoint and in the file.
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/gguf_architecture.h"

namespace cvxq {
namespace {

// In the order of LinearId.
constexpr std::array<const char*, kLinearCount> kLinearNames = {
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};

class Places {
 public:
  Places(const GgufArchitecture& architecture, const ArchSpec& spec)
      : architecture_(architecture), spec_(spec) {}

  void Matrix(const std::string& checkpoint, const std::string& file, const Shape& shape,
              int permuted_heads = 0) {
    all_.push_back({.checkpoint = checkpoint + ".weight",
                    .file = file + ".weight",
                    .shape = shape,
                    .permuted_heads = permuted_heads});
  }

  void Norm(const std::string& checkpoint, const std::string& file, const Shape& shape) {
    if (checkpoint.empty()) return;
    all_.push_back({.checkpoint = checkpoint + ".weight",
                    .file = file + ".weight",
                    .shape = shape,
                    .kind = GgufPlace::Kind::kNorm,
                    .plus_one = architecture_.norm_plus_one});
  }

  void Linear(int64_t block, LinearId id, const std::string& prefix) {
    const bool turned = id == LinearId::kQuery || id == LinearId::kKey;
    const int heads = id == LinearId::kQuery ? spec_.heads : spec_.kv_heads;
    const int permuted = turned && architecture_.pairs_adjacent ? heads : 0;
    const std::string name = spec_.LinearName(block, id);
    const std::string file = prefix + kLinearNames[static_cast<int>(id)];
    Matrix(name, file, {spec_.rows(id), spec_.columns(id)}, permuted);
    all_.back().block = block;
    all_.back().linear = id;
    all_.push_back({.checkpoint = name + ".bias",
                    .file = file + ".bias",
                    .shape = {spec_.rows(id)},
                    .kind = GgufPlace::Kind::kBias,
                    .permuted_heads = permuted,
                    .block = block,
                    .linear = id});
  }

  void Block(int64_t index) {
    const std::string prefix = absl::StrCat("blk.", index, ".");
    const auto name = [&](const std::string& pattern) { return BlockName(pattern, index); };
    const ArchSpec::Names& names = spec_.names;
    const Shape row{spec_.hidden};
    const bool sandwich = spec_.residual == ResidualKind::kSandwich;
    Norm(name(names.norm1), prefix + "attn_norm", row);
    for (const LinearId id : {LinearId::kQuery, LinearId::kKey, LinearId::kValue}) {
      Linear(index, id, prefix);
    }
    if (spec_.qk_norm) {
      const auto shape = [&](int64_t heads) {
        return spec_.qk_norm_per_head ? Shape{heads, spec_.head_dim} : Shape{spec_.head_dim};
      };
      Norm(name(names.query_norm), prefix + "attn_q_norm", shape(spec_.heads));
      Norm(name(names.key_norm), prefix + "attn_k_norm", shape(spec_.kv_heads));
    }
    Linear(index, LinearId::kOutput, prefix);
    if (sandwich) Norm(name(names.norm1_post), prefix + "post_attention_norm", row);
    Norm(name(names.norm2), prefix + "ffn_norm", row);
    for (const LinearId id : {LinearId::kGate, LinearId::kUp, LinearId::kDown}) {
      Linear(index, id, prefix);
    }
    if (sandwich) Norm(name(names.norm2_post), prefix + "post_ffw_norm", row);
  }

  std::vector<GgufPlace> All() && { return std::move(all_); }

 private:
  const GgufArchitecture& architecture_;
  const ArchSpec& spec_;
  std::vector<GgufPlace> all_;
};

}  // namespace

std::vector<GgufPlace> GgufPlaces(const GgufArchitecture& architecture, const ArchSpec& spec) {
  Places places(architecture, spec);
  places.Matrix(spec.names.embedding, "token_embd", {spec.vocabulary, spec.hidden});
  for (int64_t block = 0; block < spec.layers; ++block) places.Block(block);
  places.Norm(spec.names.final_norm, "output_norm", {spec.hidden});
  if (!spec.tied_head) places.Matrix(spec.names.head, "output", {spec.vocabulary, spec.hidden});
  return std::move(places).All();
}

std::vector<int64_t> GgufRowOrder(const GgufPlace& place) {
  if (place.permuted_heads == 0) return {};
  const int64_t rows = place.shape[0], D = rows / place.permuted_heads;
  std::vector<int64_t> order(rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = r / D, channel = r % D;
    order[r] = head * D + channel % 2 * (D / 2) + channel / 2;
  }
  return order;
}

}  // namespace cvxq
