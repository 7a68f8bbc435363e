// Makes a Llama of any size with random BF16 weights, for benches of memory and time.
//
//   bench_random_model FOLDER TOKENIZER_FOLDER HIDDEN INTERMEDIATE LAYERS
//
// Heads have 128 channels. The tokenizer and its vocabulary are those of TOKENIZER_FOLDER, a model.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/random.h"
#include "nlohmann/json.hpp"
#include "storage/safetensors.h"

namespace cvxq {
namespace {

constexpr int64_t kHeadDim = 128;

Status Make(const std::filesystem::path& folder, const std::filesystem::path& tokenizer, int64_t D,
            int64_t F, int64_t layers) {
  nlohmann::json config = nlohmann::json::parse(std::ifstream(tokenizer / "config.json"));
  const int64_t V = config["vocab_size"];
  config["hidden_size"] = D;
  config["intermediate_size"] = F;
  config["num_hidden_layers"] = layers;
  config["num_attention_heads"] = config["num_key_value_heads"] = D / kHeadDim;
  config["head_dim"] = kHeadDim;
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump(2) << "\n";
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    std::filesystem::copy_file(tokenizer / name, folder / name,
                               std::filesystem::copy_options::overwrite_existing);
  }

  std::vector<TensorEntry> entries = {{"model.embed_tokens.weight", DType::kBF16, {V, D}}};
  for (int64_t i = 0; i < layers; ++i) {
    const std::string block = absl::StrCat("model.layers.", i, ".");
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      entries.push_back({block + "self_attn." + name + ".weight", DType::kBF16, {D, D}});
    }
    entries.push_back({block + "mlp.gate_proj.weight", DType::kBF16, {F, D}});
    entries.push_back({block + "mlp.up_proj.weight", DType::kBF16, {F, D}});
    entries.push_back({block + "mlp.down_proj.weight", DType::kBF16, {D, F}});
    for (const char* name : {"input_layernorm", "post_attention_layernorm"}) {
      entries.push_back({block + name + ".weight", DType::kBF16, {D}});
    }
  }
  entries.push_back({"model.norm.weight", DType::kBF16, {D}});
  entries.push_back({"lm_head.weight", DType::kBF16, {V, D}});

  CVXQ_ASSIGN_OR_RETURN(const auto writer,
                        SafetensorsWriter::Create(folder / "model.safetensors", entries, {}));
  std::vector<uint16_t> values;
  for (size_t tensor = 0; tensor < entries.size(); ++tensor) {
    const Shape& shape = entries[tensor].shape;
    values.assign(shape.elements(), FloatToBF16(1));  // norms
    if (shape.rank() == 2) {
      // Uniform, of variance 1/N.
      const float width = std::sqrt(12.0f / static_cast<float>(shape[1]));
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = FloatToBF16(width * (RandomUniform(tensor, i) - 0.5f));
      }
    }
    CVXQ_RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(values))));
  }
  return writer->Finish();
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  if (argc != 6 || std::atoll(argv[3]) % cvxq::kHeadDim != 0) {
    std::fprintf(stderr,
                 "usage: bench_random_model FOLDER TOKENIZER_FOLDER HIDDEN INTERMEDIATE LAYERS\n"
                 "HIDDEN must be a multiple of %d\n",
                 static_cast<int>(cvxq::kHeadDim));
    return 2;
  }
  const cvxq::Status status =
      cvxq::Make(argv[1], argv[2], std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
