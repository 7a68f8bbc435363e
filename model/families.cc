#include "model/families.h"

#include <cmath>

namespace cvxq {
namespace {

const ArchSpec::Names kLlamaNames = {
    .embedding = "model.embed_tokens",
    .positions = "",
    .project_in = "",
    .project_out = "",
    .final_norm = "model.norm",
    .head = "lm_head",
    .linear = {"model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj",
               "model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj",
               "model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj",
               "model.layers.{}.mlp.down_proj"},
    .norm1 = "model.layers.{}.input_layernorm",
    .norm1_post = "",
    .norm2 = "model.layers.{}.post_attention_layernorm",
    .norm2_post = "",
    .query_norm = "model.layers.{}.self_attn.q_norm",
    .key_norm = "model.layers.{}.self_attn.k_norm",
};

ArchSpec::Names CohereNames() {
  ArchSpec::Names names = kLlamaNames;
  names.norm2 = "";
  return names;
}

ArchSpec::Names GemmaNames() {
  ArchSpec::Names names = kLlamaNames;
  names.norm1_post = "model.layers.{}.post_attention_layernorm";
  names.norm2 = "model.layers.{}.pre_feedforward_layernorm";
  names.norm2_post = "model.layers.{}.post_feedforward_layernorm";
  return names;
}

const ArchSpec::Names kCohereNames = CohereNames();
const ArchSpec::Names kGemmaNames = GemmaNames();

const ArchSpec::Names kOptNames = {
    .embedding = "model.decoder.embed_tokens",
    .positions = "model.decoder.embed_positions",
    .project_in = "model.decoder.project_in",
    .project_out = "model.decoder.project_out",
    .final_norm = "model.decoder.final_layer_norm",
    .head = "lm_head",
    .linear = {"model.decoder.layers.{}.self_attn.q_proj",
               "model.decoder.layers.{}.self_attn.k_proj",
               "model.decoder.layers.{}.self_attn.v_proj",
               "model.decoder.layers.{}.self_attn.out_proj", "", "model.decoder.layers.{}.fc1",
               "model.decoder.layers.{}.fc2"},
    .norm1 = "model.decoder.layers.{}.self_attn_layer_norm",
    .norm1_post = "",
    .norm2 = "model.decoder.layers.{}.final_layer_norm",
    .norm2_post = "",
    .query_norm = "",
    .key_norm = "",
};

void ReadOpt(ConfigReader& read, ArchSpec& spec) {
  spec.norm_bias = spec.norm_weight = read.Bool("layer_norm_elementwise_affine", true);
  spec.learned_positions = true;
  spec.position_offset = 2;
  spec.embedding_dim = read.Size("word_embed_proj_dim", spec.hidden);
  spec.final_norm = !read.Bool("_remove_final_layer_norm", false);
  if (!read.Bool("do_layer_norm_before", true)) {  // OPT-350m
    spec.residual = ResidualKind::kPost;
    spec.final_norm = false;
  }
}

void ReadQwen2(ConfigReader&, ArchSpec& spec) {
  for (const LinearId id : {LinearId::kQuery, LinearId::kKey, LinearId::kValue}) {
    spec.bias[static_cast<int>(id)] = true;
  }
}

void ReadQwen3(ConfigReader&, ArchSpec& spec) { spec.qk_norm = true; }

void ReadCohere(ConfigReader& read, ArchSpec& spec) {
  spec.logit_scale = read.Number("logit_scale", 0.0625);
  spec.qk_norm = spec.qk_norm_per_head = read.Bool("use_qk_norm", false);
  spec.qk_norm_kind = NormKind::kLayer;
}

void ReadCohere2(ConfigReader& read, ArchSpec& spec) {
  spec.logit_scale = read.Number("logit_scale", 0.0625);
  for (const char* field : {"use_parallel_block", "use_gated_activation"}) read.Expect(field, true);
  read.Expect("use_qk_norm", false);
  read.Expect("position_embedding_type", "rope_gptj");
}

void ReadGemma2(ConfigReader& read, ArchSpec& spec) {
  spec.embedding_scale = std::sqrt(static_cast<double>(spec.hidden));
  spec.attention_scale = 1 / std::sqrt(read.Positive("query_pre_attn_scalar", 256));
  spec.attention_softcap = read.PositiveOrNone("attn_logit_softcapping", 50);
  spec.logit_softcap = read.PositiveOrNone("final_logit_softcapping", 30);
}

void ReadGemma3(ConfigReader& read, ArchSpec& spec) {
  spec.embedding_scale = std::sqrt(static_cast<double>(spec.hidden));
  spec.attention_scale = 1 / std::sqrt(read.Positive("query_pre_attn_scalar", 256));
  spec.logit_softcap = read.PositiveOrNone("final_logit_softcapping", 0);
  if (read.Has("attn_logit_softcapping")) {
    read.Unsupported("attn_logit_softcapping", "must be null in this family");
  }
  spec.qk_norm = true;
  spec.qk_norm_kind = NormKind::kRmsPlusOne;
}

const Family kFamilies[] = {
    {.model_type = "opt",
     .names = kOptNames,
     .intermediate = "ffn_dim",
     .activation = "activation_function",
     .missing_activation = "relu",
     .gated = false,
     .attention_bias = "enable_bias",
     .mlp_bias = "enable_bias",
     .kv_heads = false,
     .norm = NormKind::kLayer,
     .epsilon = nullptr,
     .missing_epsilon = 1e-5,
     .rope = RopeKind::kNone,
     .tied_head = true,
     .own_fields = ReadOpt},
    {.model_type = "llama",
     .names = kLlamaNames,
     .attention_bias = "attention_bias",
     .mlp_bias = "mlp_bias",
     .kv_heads_may_miss = true},
    {.model_type = "mistral", .names = kLlamaNames, .windows = Windows::kAll},
    {.model_type = "qwen2",
     .names = kLlamaNames,
     .windows = Windows::kFromLayer,
     .own_fields = ReadQwen2},
    {.model_type = "qwen3",
     .names = kLlamaNames,
     .attention_bias = "attention_bias",
     .missing_head_dim = 128,
     .windows = Windows::kFromLayer,
     .own_fields = ReadQwen3},
    {.model_type = "cohere",
     .names = kCohereNames,
     .attention_bias = "attention_bias",
     .kv_heads_may_miss = true,
     .norm = NormKind::kLayer,
     .epsilon = "layer_norm_eps",
     .missing_epsilon = 1e-5,
     .residual = ResidualKind::kParallel,
     .rope = RopeKind::kInterleaved,
     .missing_theta = 500000,
     .tied_head = true,
     .own_fields = ReadCohere},
    {.model_type = "cohere2",
     .names = kCohereNames,
     .attention_bias = "attention_bias",
     .kv_heads_may_miss = true,
     .norm = NormKind::kLayer,
     .epsilon = "layer_norm_eps",
     .missing_epsilon = 1e-5,
     .residual = ResidualKind::kParallel,
     .rope = RopeKind::kInterleaved,
     .rope_in_windows_only = true,
     .windows = Windows::kPattern,
     .missing_pattern = 4,
     .tied_head = true,
     .own_fields = ReadCohere2},
    {.model_type = "gemma2",
     .names = kGemmaNames,
     .activation = "hidden_activation",
     .missing_activation = "gelu_pytorch_tanh",
     .attention_bias = "attention_bias",
     .missing_head_dim = 256,
     .norm = NormKind::kRmsPlusOne,
     .residual = ResidualKind::kSandwich,
     .windows = Windows::kPattern,
     .missing_pattern = 2,
     .tied_head = true,
     .own_fields = ReadGemma2},
    {.model_type = "gemma3_text",
     .names = kGemmaNames,
     .activation = "hidden_activation",
     .missing_activation = "gelu_pytorch_tanh",
     .attention_bias = "attention_bias",
     .missing_head_dim = 256,
     .norm = NormKind::kRmsPlusOne,
     .residual = ResidualKind::kSandwich,
     .missing_theta = 1000000,
     .missing_local_theta = 10000,
     .windows = Windows::kPattern,
     .missing_pattern = 6,
     .tied_head = true,
     .own_fields = ReadGemma3},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

}  // namespace cvxq
