#include "model/arch_spec.h"

#include <cmath>

#include "model/config_reader.h"
#include "model/families.h"
#include "model/rope_config.h"

namespace cvxq {
namespace {

void ReadActivation(const Family& family, ConfigReader& read, ArchSpec& spec) {
  const std::string name = read.String(family.activation, family.missing_activation);
  if (name == "relu") {
    spec.activation = ActivationKind::kRelu;
  } else if (name == "gelu") {
    spec.activation = ActivationKind::kGelu;
  } else if (name == "gelu_pytorch_tanh" || name == "gelu_new") {
    spec.activation = ActivationKind::kGeluTanh;
  } else if (name == "silu" || name == "swish") {
    spec.activation = ActivationKind::kSilu;
  } else {
    read.Unsupported(family.activation, absl::StrCat("\"", name,
                                                     "\" is not a supported activation"
                                                     " (relu, gelu, gelu_pytorch_tanh, silu)"));
  }
  spec.gated = family.gated;
}

void ReadHeads(const Family& family, ConfigReader& read, ArchSpec& spec) {
  const int64_t heads = read.Size("num_attention_heads");
  int64_t kv_heads = heads;
  if (family.kv_heads) {
    // Some families have a number of their own for a field that is not there at all.
    const bool null = read.IsNull("num_key_value_heads");
    kv_heads = null || family.kv_heads_may_miss ? read.Size("num_key_value_heads", heads)
                                                : read.Size("num_key_value_heads");
  }
  int64_t head_dim = family.missing_head_dim;
  if (family.rope != RopeKind::kNone && read.Has("head_dim")) {
    head_dim = read.Size("head_dim");
  } else if (head_dim == 0) {
    if (spec.hidden % heads != 0) {
      read.Broken("num_attention_heads",
                  absl::StrCat("(", heads, ") does not divide hidden_size (", spec.hidden, ")"));
    }
    head_dim = std::max<int64_t>(1, spec.hidden / heads);
  }
  if (heads % kv_heads != 0) {
    read.Broken("num_key_value_heads",
                absl::StrCat("(", kv_heads, ") does not divide num_attention_heads (", heads, ")"));
  }
  if (family.rope != RopeKind::kNone && head_dim % 2 != 0) {
    read.Broken("head_dim", absl::StrCat("(", head_dim, ") must be even for rotary positions"));
  }
  if (heads * head_dim > (int64_t{1} << 30)) {
    read.Broken("num_attention_heads", "times head_dim is beyond 2^30");
  }
  spec.heads = static_cast<int>(heads);
  spec.kv_heads = static_cast<int>(kv_heads);
  spec.head_dim = static_cast<int>(head_dim);
  spec.attention_scale = 1 / std::sqrt(static_cast<double>(head_dim));
}

void ReadBiases(const Family& family, ConfigReader& read, ArchSpec& spec) {
  // Where the field is missing, a family that has biases in its MLP as a rule has them.
  const bool missing = !family.gated;
  const bool attention = family.attention_bias && read.Bool(family.attention_bias, missing);
  const bool mlp = family.mlp_bias && read.Bool(family.mlp_bias, missing);
  for (int i = 0; i < kLinearCount; ++i) {
    if (family.names.linear[i].empty()) continue;
    spec.bias[i] = i < static_cast<int>(LinearId::kGate) ? attention : mlp;
  }
}

// `layer_types`: for each block whether it attends within the window.
std::vector<bool> ReadLayerTypes(ConfigReader& read, int64_t layers) {
  const nlohmann::json& types = *read.Find("layer_types");
  std::vector<bool> windowed(layers, false);
  if (!types.is_array() || static_cast<int64_t>(types.size()) != layers) {
    read.Broken("layer_types",
                absl::StrCat("must be a list of num_hidden_layers (", layers, ") names"));
    return windowed;
  }
  for (int64_t i = 0; i < layers; ++i) {
    if (types[i] == "sliding_attention") {
      windowed[i] = true;
    } else if (types[i] != "full_attention") {
      read.Unsupported("layer_types", "may name only full_attention and sliding_attention");
    }
  }
  return windowed;
}

void ReadLayers(const Family& family, ConfigReader& read, ArchSpec& spec) {
  int64_t window = 0;
  std::vector<bool> windowed(spec.layers, false);
  switch (family.windows) {
    case Windows::kNone:
      break;
    case Windows::kAll:
      window = read.SizeOrNone("sliding_window", family.missing_window);
      windowed.assign(spec.layers, window > 0);
      break;
    case Windows::kPattern: {
      window = read.SizeOrNone("sliding_window", family.missing_window);
      const int64_t pattern = read.Size("sliding_window_pattern", family.missing_pattern);
      for (int64_t i = 0; i < spec.layers; ++i) windowed[i] = (i + 1) % pattern != 0;
      break;
    }
    case Windows::kFromLayer:
      if (read.Bool("use_sliding_window", false)) {
        window = read.SizeOrNone("sliding_window", family.missing_window);
        const double first = read.Number("max_window_layers", 28);
        for (int64_t i = 0; i < spec.layers; ++i) windowed[i] = window > 0 && i >= first;
      }
      break;
  }
  if (read.Has("layer_types")) {
    const std::vector<bool> given = ReadLayerTypes(read, spec.layers);
    const bool free = family.windows == Windows::kPattern || family.windows == Windows::kFromLayer;
    if (!free && given != windowed) {
      read.Unsupported("layer_types", absl::StrCat("is not supported for ", family.model_type));
    }
    windowed = given;
  }

  const RopePair rope = ReadRope(read, family.rope, family.missing_theta,
                                 family.missing_local_theta, spec.max_positions);
  spec.layer.resize(spec.layers);
  for (int64_t i = 0; i < spec.layers; ++i) {
    if (windowed[i] && window == 0) {
      read.Broken("sliding_window", "is missing, but some blocks need it");
    }
    spec.layer[i].window = windowed[i] ? window : 0;
    spec.layer[i].rope = windowed[i] ? rope.windowed : rope.full;
    if (family.rope_in_windows_only && !windowed[i]) spec.layer[i].rope = RopeSpec{};
  }
}

// Fields that change what is computed, in any family, where they do not have these values.
void RefuseUnknown(ConfigReader& read) {
  if (read.Has("quantization_config")) {
    read.Unsupported("quantization_config",
                     "is there: the model is quantised already; give the original");
  }
  read.Expect("use_bidirectional_attention", false);
  read.Expect("is_encoder_decoder", false);
  read.Expect("add_cross_attention", false);
  read.Expect("partial_rotary_factor", 1.0);
  read.Expect("rotary_pct", 1.0);
}

}  // namespace

InputId InputOf(LinearId id) {
  switch (id) {
    case LinearId::kQuery:
    case LinearId::kKey:
    case LinearId::kValue:
      return InputId::kAttention;
    case LinearId::kOutput:
      return InputId::kOutput;
    case LinearId::kGate:
    case LinearId::kUp:
      return InputId::kMlp;
    case LinearId::kDown:
      break;
  }
  return InputId::kDown;
}

std::vector<LinearId> ArchSpec::linears() const {
  std::vector<LinearId> ids;
  for (int i = 0; i < kLinearCount; ++i) {
    if (!names.linear[i].empty()) ids.push_back(static_cast<LinearId>(i));
  }
  return ids;
}

int64_t ArchSpec::rows(LinearId id) const {
  switch (id) {
    case LinearId::kQuery:
      return int64_t{heads} * head_dim;
    case LinearId::kKey:
    case LinearId::kValue:
      return int64_t{kv_heads} * head_dim;
    case LinearId::kGate:
    case LinearId::kUp:
      return intermediate;
    case LinearId::kOutput:
    case LinearId::kDown:
      break;
  }
  return hidden;
}

int64_t ArchSpec::columns(LinearId id) const {
  switch (InputOf(id)) {
    case InputId::kOutput:
      return int64_t{heads} * head_dim;
    case InputId::kDown:
      return intermediate;
    case InputId::kAttention:
    case InputId::kMlp:
      break;
  }
  return hidden;
}

std::string ArchSpec::LinearName(int64_t block, LinearId id) const {
  return BlockName(names.linear[static_cast<int>(id)], block);
}

int64_t ArchSpec::quantized_parameters() const {
  int64_t sum = 0;
  for (const LinearId id : linears()) sum += rows(id) * columns(id);
  return layers * sum;
}

std::string BlockName(std::string_view pattern, int64_t block) {
  const size_t hole = pattern.find("{}");
  if (hole == std::string_view::npos) return std::string(pattern);
  return std::string(pattern).replace(hole, 2, std::to_string(block));
}

StatusOr<ArchSpec> ParseArchSpec(const nlohmann::json& config, const std::string& where) {
  ConfigReader read(config, where);
  ArchSpec spec;
  spec.family = read.String("model_type");
  CVXQ_RETURN_IF_ERROR(read.status());
  const Family* family = nullptr;
  std::string known;
  for (const Family& row : Families()) {
    if (row.model_type == spec.family) family = &row;
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.model_type);
  }
  if (family == nullptr) {
    read.Unsupported("model_type",
                     absl::StrCat("\"", spec.family, "\" is not a supported family (", known, ")"));
    return read.status();
  }
  spec.names = family->names;

  spec.layers = read.Size("num_hidden_layers");
  if (spec.layers > 65536) read.Broken("num_hidden_layers", "is beyond 65536");
  CVXQ_RETURN_IF_ERROR(read.status());
  spec.hidden = spec.embedding_dim = read.Size("hidden_size");
  spec.intermediate = read.Size(family->intermediate);
  spec.vocabulary = read.Size("vocab_size");
  spec.max_positions = read.Size("max_position_embeddings");
  ReadHeads(*family, read, spec);

  spec.norm = family->norm;
  spec.norm_epsilon = family->epsilon ? read.Positive(family->epsilon, family->missing_epsilon)
                                      : family->missing_epsilon;
  spec.residual = family->residual;
  ReadActivation(*family, read, spec);
  ReadBiases(*family, read, spec);
  spec.tied_head = read.Bool("tie_word_embeddings", family->tied_head);
  ReadLayers(*family, read, spec);
  if (family->own_fields) family->own_fields(read, spec);
  RefuseUnknown(read);
  // Sums over all blocks must fit an integer, whatever the file claims.
  double parameters = 0;
  for (const LinearId id : spec.linears()) {
    parameters += static_cast<double>(spec.rows(id)) * static_cast<double>(spec.columns(id));
  }
  if (parameters * static_cast<double>(spec.layers) > 1e17) {
    read.Broken("hidden_size", "and the other sizes give more than 1e17 parameters");
  }
  CVXQ_RETURN_IF_ERROR(read.status());

  // Names of tensors that this model does not have.
  if (!spec.final_norm) spec.names.final_norm.clear();
  if (!spec.qk_norm) spec.names.query_norm = spec.names.key_norm = "";
  if (spec.embedding_dim == spec.hidden) spec.names.project_in = spec.names.project_out = "";
  if (spec.tied_head) spec.names.head = spec.names.embedding;
  return spec;
}

}  // namespace cvxq
