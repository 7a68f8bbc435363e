// A GGUF file as a model: what it computes, its weights under the names of the checkpoint, its
// tokenizer.
#ifndef CVXQ_FORMATS_GGUF_MODEL_H_
#define CVXQ_FORMATS_GGUF_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "formats/gguf_architecture.h"
#include "formats/gguf_file.h"
#include "model/arch_spec.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// Immutable; may be used from any thread.
class GgufModel {
 public:
  // A file or a split set (GgufFile::Open). All tensors that the model needs are there with their
  // shapes, in types that can be decoded, and there are no others; else kDataLoss or kUnimplemented
  // with the path.
  static StatusOr<std::shared_ptr<const GgufModel>> Open(const std::string& path);

  const GgufFile& file() const { return *file_; }
  const nlohmann::json& config() const { return config_; }  // as ParseArchSpec takes it
  const ArchSpec& spec() const { return spec_; }
  StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer() const;
  int64_t parameters() const;  // elements of all its tensors

  // A tensor by its name in the checkpoint; nullptr if there is none.
  struct Located {
    GgufPlace place;
    const GgufTensor* tensor = nullptr;
    float matrix_scale = 1;
  };
  const Located* Find(const std::string& checkpoint_name) const;

 private:
  GgufModel() = default;
  Status Locate();

  std::shared_ptr<const GgufFile> file_;
  nlohmann::json config_;
  ArchSpec spec_;
  std::map<std::string, Located> located_;
};

// The model's weights, decoded to what the checkpoint would hold: floats for grid types, rows in
// the checkpoint's order, norms without the 1. Nothing is packed.
class GgufWeights final : public WeightSource {
 public:
  explicit GgufWeights(std::shared_ptr<const GgufModel> model) : model_(std::move(model)) {}
  std::optional<TensorInfo> Describe(const std::string& name) const override;
  StatusOr<HostTensor> Dense(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  std::shared_ptr<const GgufModel> model_;
};

// The .gguf file that stands for a model at `path`: itself, or the only one (or set) in a local
// folder that has no config.json; empty where there is none. kInvalidArgument for several.
StatusOr<std::string> FindGguf(const std::string& path);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_MODEL_H_
