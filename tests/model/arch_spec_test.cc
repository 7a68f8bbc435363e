// config.json to ArchSpec: both ways of writing it, and every kind of broken one.
#include "model/arch_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

namespace cvxq {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json ConfigOf(const std::string& name) {
  std::ifstream file(std::string(CVXQ_SOURCE_DIR) + "/tests/data/models/" + name + "/config.json");
  EXPECT_TRUE(file.good()) << name;
  return json::parse(file);
}

ArchSpec Parsed(const json& config) {
  auto spec = ParseArchSpec(config, "config.json");
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ArchSpec{};
}

// What Llama 3.2 1B has, as transformers 4 wrote it.
json Llama32() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "use_cache": true, "vocab_size": 128256})");
}

TEST(ArchSpecTest, ReadsLlama) {
  const ArchSpec spec = Parsed(Llama32());
  EXPECT_EQ(spec.layers, 16);
  EXPECT_EQ(spec.kv_heads, 8);
  EXPECT_EQ(spec.attention_scale, 0.125);
  EXPECT_TRUE(spec.tied_head);
  EXPECT_EQ(spec.names.head, "model.embed_tokens");
  EXPECT_EQ(spec.layer[3].rope.kind, RopeKind::kHalf);
  EXPECT_EQ(spec.layer[3].rope.scaling, "llama3");
  EXPECT_EQ(spec.layer[3].rope.theta, 500000);
  EXPECT_EQ(spec.layer[3].rope.factor, 32);
  EXPECT_EQ(spec.layer[3].rope.original_context, 8192);
  EXPECT_EQ(spec.LinearName(3, LinearId::kUp), "model.layers.3.mlp.up_proj");
  EXPECT_EQ(spec.rows(LinearId::kKey), 512);
  EXPECT_EQ(spec.columns(LinearId::kDown), 8192);
  EXPECT_EQ(spec.quantized_parameters(), 16 * (2048 * 2048 * 2 + 2048 * 512 * 2 + 3 * 2048 * 8192));
}

TEST(ArchSpecTest, BothWritingsOfRopeMeanTheSame) {
  json v5 = Llama32();
  v5["rope_parameters"] = v5["rope_scaling"];
  v5["rope_parameters"]["rope_theta"] = v5["rope_theta"];
  v5.erase("rope_scaling");
  v5.erase("rope_theta");
  EXPECT_EQ(Parsed(v5).layer[0].rope, Parsed(Llama32()).layer[0].rope);

  json gemma = ConfigOf("gemma3");  // version 5, by kind of block
  const ArchSpec wanted = Parsed(gemma);
  gemma.erase("rope_parameters");
  gemma.erase("layer_types");
  gemma["sliding_window_pattern"] = 6;
  gemma["rope_theta"] = 1000;
  gemma["rope_local_base_freq"] = 100.0;
  gemma["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2}};
  const ArchSpec v4 = Parsed(gemma);
  ASSERT_EQ(v4.layer.size(), wanted.layer.size());
  for (size_t i = 0; i < v4.layer.size(); ++i) {
    EXPECT_EQ(v4.layer[i].rope, wanted.layer[i].rope) << i;
    EXPECT_EQ(v4.layer[i].window, wanted.layer[i].window) << i;
  }
}

TEST(ArchSpecTest, ReadsOpt350m) {
  const ArchSpec spec = Parsed(ConfigOf("opt_350m"));
  EXPECT_EQ(spec.residual, ResidualKind::kPost);
  EXPECT_FALSE(spec.final_norm);
  EXPECT_FALSE(spec.gated);
  EXPECT_EQ(spec.embedding_dim, 16);
  EXPECT_EQ(spec.linears(),
            (std::vector<LinearId>{LinearId::kQuery, LinearId::kKey, LinearId::kValue,
                                   LinearId::kOutput, LinearId::kUp, LinearId::kDown}));
  EXPECT_EQ(spec.LinearName(0, LinearId::kUp), "model.decoder.layers.0.fc1");
}

// The windows of the first blocks.
std::vector<int64_t> Windows(const json& config) {
  std::vector<int64_t> windows;
  for (const LayerSpec& layer : Parsed(config).layer) windows.push_back(layer.window);
  return windows;
}

TEST(ArchSpecTest, ReadsWindows) {
  EXPECT_EQ(Windows(ConfigOf("mistral")), (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(Windows(ConfigOf("cohere2")), (std::vector<int64_t>{3, 3, 3, 0}));
  EXPECT_EQ(Windows(ConfigOf("gemma2")), (std::vector<int64_t>{3, 0}));
  EXPECT_EQ(Windows(ConfigOf("gemma3")), (std::vector<int64_t>{3, 3, 3, 3, 3, 0}));
  EXPECT_EQ(Windows(ConfigOf("qwen2")), (std::vector<int64_t>{0, 3}));
  json config = ConfigOf("qwen2");
  config["use_sliding_window"] = false;
  EXPECT_EQ(Windows(config), (std::vector<int64_t>{0, 0}));
  config = ConfigOf("mistral");
  config["sliding_window"] = nullptr;
  EXPECT_EQ(Windows(config), (std::vector<int64_t>{0, 0}));
  config.erase("sliding_window");  // what transformers takes for a missing one
  EXPECT_EQ(Windows(config), (std::vector<int64_t>{4096, 4096}));
  config = ConfigOf("gemma2");
  config["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_EQ(Windows(config), (std::vector<int64_t>{0, 3}));
}

TEST(ArchSpecTest, Cohere2HasRopeWithinWindowsOnly) {
  const ArchSpec spec = Parsed(ConfigOf("cohere2"));
  EXPECT_EQ(spec.layer[2].rope.kind, RopeKind::kInterleaved);
  EXPECT_EQ(spec.layer[3].rope.kind, RopeKind::kNone);
}

struct Broken {
  std::string model, path;  // a JSON pointer
  json value;               // discarded: the field is taken away
  absl::StatusCode code;
  std::string message;
};

std::ostream& operator<<(std::ostream& out, const Broken& broken) {
  return out << broken.model << broken.path;
}

class BrokenConfigTest : public testing::TestWithParam<Broken> {};

TEST_P(BrokenConfigTest, IsOneClearLine) {
  const Broken& broken = GetParam();
  json config = ConfigOf(broken.model);
  if (broken.value.is_discarded()) {
    config.erase(broken.path.substr(1));
  } else {
    config[json::json_pointer(broken.path)] = broken.value;
  }
  const auto spec = ParseArchSpec(config, "folder/config.json");
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.status().code(), broken.code) << spec.status();
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr("folder/config.json: "));
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr(broken.message));
  EXPECT_THAT(std::string(spec.status().message()), Not(HasSubstr("\n")));
}

const json kGone = json(json::value_t::discarded);
constexpr absl::StatusCode kData = absl::StatusCode::kDataLoss;
constexpr absl::StatusCode kUnknown = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    Missing, BrokenConfigTest,
    testing::Values(Broken{"llama", "/model_type", kGone, kData, "model_type is missing"},
                    Broken{"llama", "/hidden_size", kGone, kData, "hidden_size is missing"},
                    Broken{"llama", "/num_hidden_layers", kGone, kData, "num_hidden_layers"},
                    Broken{"llama", "/intermediate_size", kGone, kData, "intermediate_size"},
                    Broken{"opt", "/ffn_dim", kGone, kData, "ffn_dim is missing"},
                    Broken{"opt", "/vocab_size", nullptr, kData, "vocab_size is missing"},
                    Broken{"llama", "/max_position_embeddings", kGone, kData, "is missing"},
                    Broken{"mistral", "/num_key_value_heads", kGone, kData, "is missing"},
                    Broken{"gemma2", "/sliding_window", nullptr, kData, "sliding_window"},
                    Broken{"llama_v4", "/rope_scaling", json{{"type", "linear"}}, kData,
                           "rope_scaling.factor is missing"}));

INSTANTIATE_TEST_SUITE_P(
    Senseless, BrokenConfigTest,
    testing::Values(
        Broken{"llama", "/hidden_size", "24", kData, "hidden_size must be a whole number"},
        Broken{"llama", "/hidden_size", 24.5, kData, "hidden_size must be a whole number"},
        Broken{"llama", "/hidden_size", -24, kData, "not -24"},
        Broken{"llama", "/vocab_size", 0, kData, "not 0"},
        Broken{"llama", "/vocab_size", 1099511627776, kData, "vocab_size must be from 1 to"},
        Broken{"llama", "/vocab_size", 18446744073709551615u, kData, "vocab_size must be from 1"},
        Broken{"llama", "/num_hidden_layers", 1000000000, kData, "num_hidden_layers"},
        Broken{"llama", "/rms_norm_eps", "small", kData, "rms_norm_eps must be a finite number"},
        Broken{"llama", "/rms_norm_eps", -1e-5, kData, "rms_norm_eps must be above 0"},
        Broken{"llama", "/tie_word_embeddings", 1, kData, "must be true or false"},
        Broken{"llama", "/hidden_act", 3, kData, "hidden_act must be a string"},
        Broken{"llama", "/model_type", json::array(), kData, "model_type must be a string"},
        Broken{"llama", "/num_key_value_heads", 3, kData, "does not divide"},
        Broken{"llama_v4", "/num_attention_heads", 5, kData, "does not divide hidden_size"},
        Broken{"llama", "/head_dim", 7, kData, "head_dim (7) must be even"},
        Broken{"llama", "/num_attention_heads", 1 << 30, kData, "2^30"},
        Broken{"llama", "/rope_parameters", 1e4, kData, "rope_parameters must be a JSON object"},
        Broken{"llama", "/rope_parameters/rope_theta", -1, kData, "rope_theta must be above 0"},
        Broken{"llama", "/rope_parameters/factor", 0, kData, "factor must be above 0"},
        Broken{"llama", "/rope_parameters/high_freq_factor", 1, kData, "high_freq_factor"},
        Broken{"llama", "/rope_scaling", json{{"type", "linear"}, {"factor", 2}}, kData, "both"},
        Broken{"gemma3", "/layer_types", json{"full_attention"}, kData, "layer_types must be"},
        Broken{"gemma3", "/rope_parameters", json{{"rope_theta", 5}}, kData, "full_attention"},
        Broken{"mistral", "/sliding_window", -3, kData, "sliding_window must be from 1"}));

INSTANTIATE_TEST_SUITE_P(
    Unknown, BrokenConfigTest,
    testing::Values(
        Broken{"llama", "/model_type", "mamba", kUnknown, "\"mamba\" is not a supported family"},
        Broken{"llama", "/rope_parameters/rope_type", "yarn", kUnknown, "\"yarn\""},
        Broken{"llama_v4", "/rope_scaling/type", "dynamic", kUnknown, "\"dynamic\""},
        Broken{"llama", "/rope_parameters/attention_factor", 2, kUnknown, "attention_factor"},
        Broken{"llama", "/rope_parameters/partial_rotary_factor", 0.5, kUnknown, "partial_rotary"},
        Broken{"llama", "/partial_rotary_factor", 0.5, kUnknown, "only 1.0 is supported"},
        Broken{"llama", "/hidden_act", "tanh", kUnknown, "\"tanh\" is not a supported activation"},
        Broken{"llama", "/quantization_config", json{{"bits", 4}}, kUnknown, "quantised already"},
        Broken{"gemma2", "/layer_types", json{"full_attention", "chunked_attention"}, kUnknown,
               "layer_types"},
        Broken{"mistral", "/layer_types", json{"full_attention", "sliding_attention"}, kUnknown,
               "layer_types is not supported for mistral"},
        Broken{"gemma3", "/use_bidirectional_attention", true, kUnknown, "bidirectional"},
        Broken{"gemma3", "/attn_logit_softcapping", 50, kUnknown, "attn_logit_softcapping"},
        Broken{"cohere2", "/use_qk_norm", true, kUnknown, "use_qk_norm is true"}));

TEST(ArchSpecTest, RefusesSizesWhoseProductIsAbsurd) {
  json config = ConfigOf("llama");
  config["hidden_size"] = config["intermediate_size"] = 1 << 29;
  EXPECT_THAT(std::string(ParseArchSpec(config, "config.json").status().message()),
              HasSubstr("more than 1e17 parameters"));
}

TEST(ArchSpecTest, RefusesWhatIsNotAnObject) {
  const auto spec = ParseArchSpec(json::array(), "config.json");
  EXPECT_EQ(spec.status().message(), "config.json: the whole must be a JSON object");
}

}  // namespace
}  // namespace cvxq
