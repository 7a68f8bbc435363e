#include "pipeline/model_files.h"

#include <utility>

#include "formats/gguf_model.h"
#include "formats/quantized_checkpoint.h"

namespace cvxq {
namespace {

// A string in a JSON object, empty where it is not one.
std::string StringField(const nlohmann::json& object, const char* name) {
  if (!object.is_object() || !object.contains(name) || !object[name].is_string()) return "";
  return object[name].get<std::string>();
}

StatusOr<ModelFiles> OpenGguf(const std::string& path) {
  ModelFiles files{.folder = path, .packed = true};
  CVXQ_ASSIGN_OR_RETURN(files.gguf, GgufModel::Open(path));
  files.spec = files.gguf->spec();
  files.weights = std::make_unique<GgufWeights>(files.gguf);
  return files;
}

}  // namespace

int64_t ModelFiles::parameters() const {
  if (gguf != nullptr) return gguf->parameters();
  if (quantized != nullptr) return quantized->parameters();
  int64_t sum = 0;
  for (const std::string& name : checkpoint->names()) {
    if (!packed || !IsQuantizedTensor(name)) sum += checkpoint->Find(name)->shape.elements();
  }
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      if (weights->IsPacked(spec.LinearName(block, id))) sum += spec.rows(id) * spec.columns(id);
    }
  }
  return sum;
}

StatusOr<std::unique_ptr<const Tokenizer>> ModelFiles::LoadTokenizer() const {
  return gguf != nullptr ? gguf->LoadTokenizer() : Tokenizer::Load(checkpoint->files());
}

StatusOr<ModelFiles> OpenModel(const std::string& address, int threads,
                               const std::string& scratch) {
  if (!IsBucketAddress(address)) {
    CVXQ_ASSIGN_OR_RETURN(const std::string gguf, FindGguf(address));
    if (!gguf.empty()) return OpenGguf(gguf);
  }
  ModelFiles files;
  CVXQ_ASSIGN_OR_RETURN(std::shared_ptr<const Folder> opened, Folder::Open(address, scratch));
  CVXQ_ASSIGN_OR_RETURN(files.checkpoint, Checkpoint::Open(std::move(opened)));
  const std::string& folder = files.folder = files.checkpoint->folder();
  nlohmann::json config = files.checkpoint->config();
  PackedWeights* packed = nullptr;
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end()) {
    files.weights = std::make_unique<DenseWeights>(files.checkpoint);
  } else if (StringField(*quantization, "quant_method") != "cvxq") {
    CVXQ_ASSIGN_OR_RETURN(
        std::unique_ptr<QuantizedCheckpoint> weights,
        QuantizedCheckpoint::Open(files.checkpoint, threads > 0 ? threads : AvailableProcessors()));
    files.quantized = weights.get();
    files.packed = true;
    files.weights = std::move(weights);
  } else {
    const auto version = quantization->find("format_version");
    if (version == quantization->end() || *version != kPackedFormatVersion) {
      return absl::UnimplementedError(absl::StrCat(
          folder,
          "/config.json: this version of the packed format is not known; this program reads ",
          kPackedFormatVersion));
    }
    CVXQ_ASSIGN_OR_RETURN(
        std::unique_ptr<PackedWeights> weights,
        PackedWeights::Open(files.checkpoint, threads > 0 ? threads : AvailableProcessors()));
    packed = weights.get();
    files.packed = true;
    files.weights = std::move(weights);
  }
  config.erase("quantization_config");  // understood here; to the architecture it would be foreign
  CVXQ_ASSIGN_OR_RETURN(files.spec, ParseArchSpec(config, folder + "/config.json"));
  AdaptNames(*files.weights, files.spec);
  if (packed != nullptr) CVXQ_RETURN_IF_ERROR(packed->Expect(files.spec));
  return files;
}

}  // namespace cvxq
