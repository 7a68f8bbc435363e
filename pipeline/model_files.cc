#include "pipeline/model_files.h"

#include <cstring>

namespace cvxq {
namespace {

constexpr int64_t kTableFloats = 510;  // 2 + 4 + ... + 256

bool IsPackedName(const std::string& name) { return name.ends_with(kPackedSuffix); }

// The first 8 bytes of a packed matrix are its shape.
Shape PackedShape(const HostTensor& tensor) {
  if (tensor.bytes() < 8) return {0, 0};
  uint32_t shape[2];
  std::memcpy(shape, tensor.data, sizeof(shape));
  return {shape[0], shape[1]};
}

// Before a packed matrix is parsed its shape must be the architecture's: a lying one could ask for
// any amount of memory.
Status CheckPackedShapes(const Checkpoint& checkpoint, const ArchSpec& spec) {
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      const std::string name = spec.LinearName(block, id) + std::string(kPackedSuffix);
      const HostTensor* tensor = checkpoint.Find(name);
      const Shape expected{spec.rows(id), spec.columns(id)};
      if (tensor == nullptr || PackedShape(*tensor) == expected) continue;
      return absl::DataLossError(absl::StrCat(
          checkpoint.folder(), ": ", name, " is a matrix ", PackedShape(*tensor).ToString(),
          ", config.json asks for ", expected.ToString(), "; get the file again"));
    }
  }
  return absl::OkStatus();
}

// A string in a JSON object, empty where it is not one.
std::string StringField(const nlohmann::json& object, const char* name) {
  if (!object.is_object() || !object.contains(name) || !object[name].is_string()) return "";
  return object[name].get<std::string>();
}

}  // namespace

std::vector<float> FlattenTables(const std::vector<TableSet>& families) {
  std::vector<float> flat;
  for (const TableSet& family : families) {
    for (int b = 1; b <= kMaxDepth; ++b) {
      flat.insert(flat.end(), family[b].begin(), family[b].end());
    }
  }
  return flat;
}

StatusOr<std::unique_ptr<PackedWeights>> PackedWeights::Open(
    std::shared_ptr<const Checkpoint> checkpoint) {
  const std::string name(kTablesName);
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint->Get(name));
  if (tensor.dtype != DType::kF32 || tensor.shape.rank() != 2 || tensor.shape[1] != kTableFloats ||
      tensor.shape[0] < 1 || tensor.shape[0] > 256) {
    return absl::DataLossError(
        absl::StrCat(checkpoint->folder(), ": ", name, " does not have the form of level tables"));
  }
  CVXQ_ASSIGN_OR_RETURN(const std::vector<float> flat, ToFloats(tensor));
  auto weights = std::make_unique<PackedWeights>();
  auto next = flat.begin();
  for (int64_t family = 0; family < tensor.shape[0]; ++family) {
    TableSet& tables = weights->tables_.emplace_back();
    for (int b = 1; b <= kMaxDepth; ++b) {
      tables[b].assign(next, next + (1 << b));
      next += 1 << b;
    }
  }
  weights->checkpoint_ = std::move(checkpoint);
  return weights;
}

HostTensor PackedWeights::Dense(const std::string& name) const {
  const HostTensor* tensor = checkpoint_->Find(name);
  return tensor == nullptr ? HostTensor{} : *tensor;
}

bool PackedWeights::IsPacked(const std::string& linear) const {
  return checkpoint_->Find(linear + std::string(kPackedSuffix)) != nullptr;
}

StatusOr<std::shared_ptr<const PackedMatrix>> PackedWeights::Packed(
    const std::string& linear) const {
  const std::string name = linear + std::string(kPackedSuffix);
  const HostTensor* tensor = checkpoint_->Find(name);
  if (tensor == nullptr) return std::shared_ptr<const PackedMatrix>();
  StatusOr<PackedMatrix> matrix = ParsePackedMatrix(
      {reinterpret_cast<const uint8_t*>(tensor->data), static_cast<size_t>(tensor->bytes())},
      tables_);
  if (!matrix.ok()) {
    return Status(matrix.status().code(),
                  absl::StrCat(checkpoint_->folder(), ": ", name, ": ", matrix.status().message()));
  }
  return std::make_shared<const PackedMatrix>(*std::move(matrix));
}

void PackedWeights::Release(const std::string& name) const { checkpoint_->Release(name); }

int64_t ModelFiles::parameters() const {
  int64_t sum = 0;
  for (const std::string& name : checkpoint->names()) {
    if (name == kTablesName) continue;
    const HostTensor& tensor = *checkpoint->Find(name);
    sum += packed && IsPackedName(name) ? PackedShape(tensor).elements() : tensor.shape.elements();
  }
  return sum;
}

StatusOr<ModelFiles> OpenModel(const std::string& folder) {
  ModelFiles files;
  files.folder = folder;
  CVXQ_ASSIGN_OR_RETURN(files.checkpoint, Checkpoint::Open(folder));
  nlohmann::json config = files.checkpoint->config();
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end()) {
    files.weights = std::make_unique<DenseWeights>(files.checkpoint);
  } else {
    const std::string method = StringField(*quantization, "quant_method");
    if (method != "cvxq") {
      return absl::UnimplementedError(absl::StrCat(
          folder, ": the model is already quantised (", method.empty() ? "unknown method" : method,
          "); cvxq reads its own packed format and dense F32, F16 and BF16 checkpoints"));
    }
    const auto version = quantization->find("format_version");
    if (version == quantization->end() || *version != kPackedFormatVersion) {
      return absl::UnimplementedError(absl::StrCat(
          folder,
          "/config.json: this version of the packed format is not known; this program reads ",
          kPackedFormatVersion));
    }
    CVXQ_ASSIGN_OR_RETURN(files.weights, PackedWeights::Open(files.checkpoint));
    files.packed = true;
  }
  config.erase("quantization_config");  // understood here; to the architecture it would be foreign
  CVXQ_ASSIGN_OR_RETURN(files.spec, ParseArchSpec(config, folder + "/config.json"));
  AdaptNames(*files.weights, files.spec);
  if (files.packed) {
    CVXQ_RETURN_IF_ERROR(CheckPackedShapes(*files.checkpoint, files.spec));
  }
  return files;
}

}  // namespace cvxq
