// A model of tests/data/models as a checkpoint with a tokenizer, and its export to GGUF.
#ifndef CVXQ_TESTS_FORMATS_GGUF_TESTING_H_
#define CVXQ_TESTS_FORMATS_GGUF_TESTING_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "formats/export_format.h"
#include "formats/gguf_model.h"
#include "model/model.h"
#include "storage/checkpoint.h"
#include "tests/formats/fixed_export.h"
#include "tests/storage/test_files.h"

namespace cvxq {

inline const std::string kData = std::string(CVXQ_SOURCE_DIR) + "/tests/data/";
inline const std::string kExample = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";

// A byte-level tokenizer of exactly `vocabulary` tokens, two of them special.
inline std::string SmallTokenizer(int vocabulary) {
  nlohmann::json vocab = {{"<s>", 0}, {"</s>", 1}};
  for (int id = 2; id < vocabulary; ++id) vocab[std::string(1, static_cast<char>('!' + id))] = id;
  const nlohmann::json special = {{"special", true}, {"normalized", false}};
  nlohmann::json bos = special, eos = special;
  bos["content"] = "<s>";
  eos["content"] = "</s>";
  return nlohmann::json{
      {"added_tokens", {bos, eos}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}}
      .dump();
}

// A copy of a test model that llama.cpp can compute, in `folder`: `edit` changes its config.
inline void CopyModel(const std::string& name, const std::string& folder,
                      const nlohmann::json& edit = nlohmann::json::object()) {
  const std::string from = kData + "models/" + name + "/";
  nlohmann::json config = nlohmann::json::parse(Slurp(from + "config.json"));
  if (edit.is_object()) config.update(edit);
  std::filesystem::create_directories(folder);
  Put(folder + "/config.json", config.dump());
  Put(folder + "/tokenizer.json", SmallTokenizer(config["vocab_size"]));
  std::filesystem::copy_file(from + "model.safetensors", folder + "/model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
}

// What the models of tests/data/models need to be computable by llama.cpp: the scale of scores and
// the norms of queries and keys are not its to choose.
inline nlohmann::json EditFor(const std::string& name) {
  if (name == "gemma2" || name == "gemma3") return {{"query_pre_attn_scalar", 8}};
  if (name == "cohere") return {{"use_qk_norm", false}};
  return nlohmann::json::object();
}

// A checkpoint bound to the format.
struct GgufExport {
  std::shared_ptr<const Checkpoint> checkpoint;
  ArchSpec spec;
  std::unique_ptr<ExportFormat> format;

  static StatusOr<GgufExport> Make(const std::string& folder,
                                   const ExportFormatOptions& options = {}) {
    GgufExport made;
    CVXQ_ASSIGN_OR_RETURN(made.checkpoint, Checkpoint::Open(folder));
    CVXQ_ASSIGN_OR_RETURN(made.spec, ParseArchSpec(made.checkpoint->config(), folder));
    CVXQ_ASSIGN_OR_RETURN(made.format, MakeGguf(*made.checkpoint, made.spec, options));
    return made;
  }

  // For each matrix the type of this name, else the largest that there is.
  std::vector<const WeightType*> Choose(const std::string& type) const {
    std::vector<const WeightType*> choice;
    for (const ExportMatrix& matrix : format->matrices()) {
      choice.push_back(matrix.types.back());
      for (const WeightType* one : matrix.types) {
        if (one->name() == type) choice.back() = one;
      }
    }
    return choice;
  }

  StatusOr<ExportedMatrix> Matrix(size_t index, const WeightType& type) const {
    return NearestMatrix(*checkpoint, format->matrices()[index], type);
  }

  Status Write(const std::vector<const WeightType*>& choice, const std::string& folder) {
    std::filesystem::create_directories(folder);
    return format->Write(
        choice, [&](size_t index) { return Matrix(index, *choice[index]); }, folder);
  }
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_FORMATS_GGUF_TESTING_H_
