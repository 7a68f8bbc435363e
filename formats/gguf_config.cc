// A model's metadata: from its specification, and back to the config.json that gives it.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "formats/gguf_architecture.h"
#include "model/rope_config.h"
#include "storage/json.h"

namespace cvxq {
namespace {

// Llama 3's way of scaling positions has no key of llama.cpp's: the tensor of divisors says what is
// computed, and this key what it was made of.
constexpr char kRopeScalingKey[] = "cvxq.rope_scaling";
constexpr char kRopeDivisors[] = "rope_freqs.weight";
constexpr double kGemma3LocalTheta = 10000;

// A float as the decimal number that was written down: 0.4, not 0.4000000059604645.
double Shortest(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value)).ptr;
  double shortest = value;
  std::from_chars(text, end, shortest);
  return shortest;
}

bool HasLayerNorm(std::string_view family) { return family == "cohere" || family == "cohere2"; }

const char* EpsilonKey(std::string_view family) {
  return HasLayerNorm(family) ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
}

// The rotary positions of blocks with full attention, or of all.
const RopeSpec& MainRope(const ArchSpec& spec) {
  for (const LayerSpec& layer : spec.layer) {
    if (layer.rope.kind != RopeKind::kNone && (layer.window == 0 || spec.family == "cohere2")) {
      return layer.rope;
    }
  }
  return spec.layer.front().rope;
}

// Reads keys below the architecture's name; keeps the first error.
class MetadataReader {
 public:
  explicit MetadataReader(const GgufFile& file) : file_(file) {}

  void set_prefix(std::string_view name) { prefix_ = std::string(name) + "."; }
  const Status& status() const { return status_; }

  Status Error(absl::StatusCode code, const std::string& what) const {
    return Status(code, absl::StrCat("cannot use ", file_.path(), ": ", what));
  }
  void Keep(absl::StatusCode code, const std::string& what) { status_.Update(Error(code, what)); }

  const GgufValue* Find(const std::string& key) const { return file_.Find(prefix_ + key); }

  int64_t Size(const std::string& key, std::optional<int64_t> missing = std::nullopt) {
    const GgufValue* value = Find(key);
    if (value == nullptr && missing) return *missing;
    const std::optional<int64_t> number = value == nullptr ? std::nullopt : value->Integer();
    if (number && *number > 0 && *number <= int64_t{1} << 30) return *number;
    Keep(absl::StatusCode::kDataLoss,
         absl::StrCat(prefix_, key, value == nullptr ? " is missing" : " is no size"));
    return 1;
  }
  double Number(const std::string& key, std::optional<double> missing = std::nullopt) {
    const GgufValue* value = Find(key);
    if (value == nullptr && missing) return *missing;
    const std::optional<double> number = value == nullptr ? std::nullopt : value->Float();
    if (number && std::isfinite(*number)) return Shortest(*number);
    Keep(absl::StatusCode::kDataLoss,
         absl::StrCat(prefix_, key, value == nullptr ? " is missing" : " is no number"));
    return 1;
  }
  std::string String(const std::string& key) {
    const GgufValue* value = Find(key);
    const std::optional<std::string_view> text = value == nullptr ? std::nullopt : value->String();
    return std::string(text.value_or(""));
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
  Status status_;
};

// The parameters behind the tensor of divisors: the file's own, else Llama 3's with the largest
// divisor as factor. Both are held against the tensor.
StatusOr<nlohmann::json> RopeOfDivisors(const GgufFile& file, const GgufTensor& tensor,
                                        double theta, int64_t head_dim) {
  const auto wrong = [&](absl::StatusCode code, const std::string& what) {
    return Status(code, absl::StrCat("cannot use ", file.path(), ": ", what));
  };
  const std::vector<int64_t> extents{head_dim / 2};
  if (head_dim < 2 || tensor.type != 0 || tensor.shape.extents() != extents) {
    return wrong(absl::StatusCode::kDataLoss, "rope_freqs.weight has another type or shape");
  }
  CVXQ_ASSIGN_OR_RETURN(const std::vector<float> stored,
                        ToFloats({{DType::kF32, tensor.shape}, tensor.bytes.data()}));
  nlohmann::json scaling = {{"rope_type", "llama3"},
                            {"factor", Shortest(*std::max_element(stored.begin(), stored.end()))},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  if (const GgufValue* own = file.Find(kRopeScalingKey)) {
    const std::string text(own->String().value_or(""));
    CVXQ_ASSIGN_OR_RETURN(scaling, ParseJson(text, file.path() + ": " + kRopeScalingKey));
  }
  nlohmann::json config = {{"rope_theta", theta}, {"rope_scaling", scaling}};
  ConfigReader read(config, file.path() + ": " + kRopeScalingKey);
  const RopeSpec rope = ReadRope(read, RopeKind::kHalf, theta, 0, 1).full;
  CVXQ_RETURN_IF_ERROR(read.status());
  const std::vector<float> expected = GgufRopeDivisors(rope, head_dim);
  for (size_t i = 0; i < stored.size(); ++i) {
    if (!(std::abs(stored[i] - expected[i]) <= 1e-5f * expected[i])) {
      return wrong(absl::StatusCode::kUnimplemented,
                   "its rope_freqs.weight does not scale positions as Llama 3 does");
    }
  }
  return scaling;
}

// Of families whose blocks alternate between windows and full attention.
void ReadWindows(const GgufArchitecture& architecture, MetadataReader& read, int64_t layers,
                 nlohmann::json& config) {
  config["sliding_window"] = read.Size("attention.sliding_window");
  const int64_t period = read.Size("attention.sliding_window_pattern", architecture.window_period);
  nlohmann::json types = nlohmann::json::array();
  for (int64_t i = 0; read.status().ok() && i < layers; ++i) {
    types.push_back((i + 1) % period == 0 ? "full_attention" : "sliding_attention");
  }
  config["layer_types"] = std::move(types);
}

}  // namespace

std::vector<float> GgufRopeDivisors(const RopeSpec& rope, int64_t head_dim) {
  RopeSpec plain = rope;
  plain.scaling = "default";
  std::vector<float> divisors(head_dim / 2);
  for (size_t i = 0; i < divisors.size(); ++i) {
    const int64_t pair = static_cast<int64_t>(i);
    divisors[i] = static_cast<float>(RopeFrequency(plain, pair, head_dim) /
                                     RopeFrequency(rope, pair, head_dim));
  }
  return divisors;
}

void AddGgufModel(const GgufArchitecture& architecture, const ArchSpec& spec,
                  GgufMetadata& metadata) {
  const std::string prefix = std::string(architecture.name) + ".";
  const auto size = [&](const std::string& key, int64_t value) {
    metadata.U32(prefix + key, static_cast<uint32_t>(value));
  };
  const auto number = [&](const std::string& key, double value) {
    metadata.F32(prefix + key, static_cast<float>(value));
  };
  int64_t window = 0, period = 0, context = spec.max_positions;
  for (int64_t i = 0; i < spec.layers; ++i) {
    const int64_t here = spec.layer[i].window;
    if (here == 0 && period == 0) period = i + 1;
    window = std::max(window, here);
    if (here > 0 && architecture.window_period == 0) context = std::min(context, here);
  }
  size("context_length", context);
  size("embedding_length", spec.hidden);
  size("block_count", spec.layers);
  size("feed_forward_length", spec.intermediate);
  size("vocab_size", spec.vocabulary);
  size("attention.head_count", spec.heads);
  size("attention.head_count_kv", spec.kv_heads);
  size("attention.key_length", spec.head_dim);
  size("attention.value_length", spec.head_dim);
  number(EpsilonKey(spec.family), spec.norm_epsilon);
  if (architecture.window_period > 0) {
    size("attention.sliding_window", window);
    size("attention.sliding_window_pattern", period == 0 ? architecture.window_period : period);
  }
  if (spec.attention_softcap > 0) number("attn_logit_softcapping", spec.attention_softcap);
  if (spec.logit_softcap > 0) number("final_logit_softcapping", spec.logit_softcap);
  if (HasLayerNorm(spec.family)) number("logit_scale", spec.logit_scale);

  const RopeSpec& rope = MainRope(spec);
  size("rope.dimension_count", spec.head_dim);
  number("rope.freq_base", rope.theta);
  if (spec.family == "gemma3_text") number("rope.freq_base_swa", spec.layer[0].rope.theta);
  if (rope.scaling == "linear") {
    metadata.String(prefix + "rope.scaling.type", "linear");
    number("rope.scaling.factor", rope.factor);
  } else if (HasLayerNorm(spec.family)) {
    metadata.String(prefix + "rope.scaling.type", "none");
  } else if (rope.scaling == "llama3") {
    const nlohmann::json scaling = {{"rope_type", "llama3"},
                                    {"factor", rope.factor},
                                    {"low_freq_factor", rope.low_frequency_factor},
                                    {"high_freq_factor", rope.high_frequency_factor},
                                    {"original_max_position_embeddings", rope.original_context}};
    metadata.String(kRopeScalingKey, scaling.dump());
  }
}

StatusOr<nlohmann::json> ConfigFromGguf(const GgufFile& file) {
  MetadataReader read(file);
  const std::string name = read.String("general.architecture");
  const GgufArchitecture* architecture = FindGgufArchitectureByName(name);
  if (architecture == nullptr) {
    return read.Error(absl::StatusCode::kUnimplemented,
                      absl::StrCat("its architecture \"", name, "\" is not known here"));
  }
  const std::string family(architecture->family);
  read.set_prefix(name);
  const GgufTensor* table = file.FindTensor("token_embd.weight");
  if (table == nullptr || table->shape.rank() != 2) {
    return read.Error(absl::StatusCode::kDataLoss, "it has no token_embd.weight");
  }
  const int64_t layers = read.Size("block_count"), hidden = read.Size("embedding_length");
  const int64_t heads = read.Size("attention.head_count");
  const int64_t head_dim = read.Size("attention.key_length", std::max<int64_t>(1, hidden / heads));
  const double theta = read.Number("rope.freq_base", 10000);
  if (layers > static_cast<int64_t>(file.tensors().size())) {
    read.Keep(absl::StatusCode::kDataLoss,
              absl::StrCat(name, ".block_count is ", layers, ", more than there are tensors"));
  }
  if (read.Size("attention.value_length", head_dim) != head_dim ||
      read.Size("rope.dimension_count", head_dim) != head_dim) {
    read.Keep(absl::StatusCode::kUnimplemented,
              "heads have channels that do not rotate, or values of another width");
  }
  nlohmann::json config = {
      {"model_type", family},
      {"num_hidden_layers", layers},
      {"hidden_size", hidden},
      {"intermediate_size", read.Size("feed_forward_length")},
      {"vocab_size", table->shape[0]},
      {"max_position_embeddings", read.Size("context_length")},
      {"num_attention_heads", heads},
      {"num_key_value_heads", read.Size("attention.head_count_kv", heads)},
      {"head_dim", head_dim},
      {HasLayerNorm(family) ? "layer_norm_eps" : "rms_norm_eps", read.Number(EpsilonKey(family))},
      {"rope_theta", theta},
      {"tie_word_embeddings", file.FindTensor("output.weight") == nullptr},
  };
  if (HasLayerNorm(family)) config["logit_scale"] = read.Number("logit_scale");
  if (family == "cohere")
    config["use_qk_norm"] = file.FindTensor("blk.0.attn_q_norm.weight") != nullptr;
  if (architecture->window_period > 0) ReadWindows(*architecture, read, layers, config);
  if (architecture->other_scale_layers > 0) {
    config["query_pre_attn_scalar"] =
        layers == architecture->other_scale_layers ? hidden / heads : head_dim;
  }
  if (family == "gemma2") {
    config["attn_logit_softcapping"] = read.Number("attn_logit_softcapping", 50);
    config["final_logit_softcapping"] = read.Number("final_logit_softcapping", 30);
  }
  if (family == "gemma3_text") {
    config["rope_local_base_freq"] = read.Number("rope.freq_base_swa", kGemma3LocalTheta);
  }
  const std::string scaling = read.String("rope.scaling.type");
  const double factor = read.Number("rope.scaling.factor", 1);
  if (scaling != "none" && factor != 1 && scaling != "" && scaling != "linear") {
    read.Keep(absl::StatusCode::kUnimplemented,
              absl::StrCat("it scales positions by \"", scaling, "\""));
  } else if (scaling != "none" && factor != 1) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
  }
  CVXQ_RETURN_IF_ERROR(read.status());
  if (const GgufTensor* divisors = file.FindTensor(kRopeDivisors)) {
    CVXQ_ASSIGN_OR_RETURN(config["rope_scaling"], RopeOfDivisors(file, *divisors, theta, head_dim));
  }
  return config;
}

}  // namespace cvxq
