#include "formats/safetensors_format.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "formats/ggml_types.h"
#include "storage/companion_files.h"

namespace cvxq {
namespace {

Status AppendFloats(const std::vector<float>& values, DType dtype,
                    const SafetensorsFolder::Append& append) {
  if (dtype == DType::kF32) return append(std::as_bytes(std::span(values)));
  std::vector<uint16_t> halves(values.size());
  for (size_t i = 0; i < halves.size(); ++i) {
    halves[i] = dtype == DType::kF16 ? FloatToF16(values[i]) : FloatToBF16(values[i]);
  }
  return append(std::as_bytes(std::span(halves)));
}

}  // namespace

const WeightType* SafetensorsFormat::Dense(DType dtype) const {
  switch (dtype) {
    case DType::kF32:
      return FindGgmlType("f32");
    case DType::kF16:
      return FindGgmlType("f16");
    default:
      return FindGgmlType("bf16");
  }
}

DType SafetensorsFormat::StoredType(const ExportMatrix& matrix) const {
  return checkpoint_.Find(matrix.name + ".weight")->dtype;
}

Status SafetensorsFormat::Prepare() {
  CVXQ_RETURN_IF_ERROR(FindMatrices());
  CVXQ_RETURN_IF_ERROR(ReadMenu());
  if (ties_fused()) TieFused();
  for (ExportMatrix& matrix : matrices_) {
    if (matrix.role == ExportMatrix::Role::kLinear) CVXQ_RETURN_IF_ERROR(FillTypes(matrix));
  }
  return absl::OkStatus();
}

Status SafetensorsFormat::FindMatrices() {
  using Role = ExportMatrix::Role;
  for (int64_t block = 0; block < spec_.layers; ++block) {
    for (const LinearId id : spec_.linears()) {
      matrices_.push_back({.name = spec_.LinearName(block, id), .block = block, .id = id});
    }
  }
  matrices_.push_back({.name = spec_.names.embedding, .role = Role::kEmbedding});
  if (!spec_.tied_head) matrices_.push_back({.name = spec_.names.head, .role = Role::kHead});
  for (ExportMatrix& matrix : matrices_) {
    const std::string name = matrix.name + ".weight";
    const TensorInfo* tensor = checkpoint_.Find(name);
    if (tensor == nullptr || tensor->shape.rank() != 2) {
      return absl::DataLossError(absl::StrCat(checkpoint_.folder(), ": tensor ", name,
                                              " is missing or no matrix; get the file again"));
    }
    if (tensor->dtype != DType::kF32 && tensor->dtype != DType::kF16 &&
        tensor->dtype != DType::kBF16) {
      return absl::UnimplementedError(absl::StrCat(checkpoint_.folder(), ": tensor ", name,
                                                   " has type ", std::string(Name(tensor->dtype)),
                                                   "; exports start from F32, F16 and BF16"));
    }
    matrix.rows = tensor->shape[0];
    matrix.columns = tensor->shape[1];
    if (matrix.role != Role::kLinear) matrix.types = {Dense(tensor->dtype)};
  }
  CVXQ_ASSIGN_OR_RETURN(companions_, CompanionFiles(checkpoint_.files()));
  return absl::OkStatus();
}

Status SafetensorsFormat::CheckOptions(const std::vector<std::string>& engines) const {
  if (std::find(engines.begin(), engines.end(), options_.engine) == engines.end()) {
    return absl::InvalidArgumentError(absl::StrCat("the engine ", options_.engine,
                                                   " is not known for ", name(),
                                                   "; leave it out or take vllm"));
  }
  const int64_t group = options_.group;
  if (group == 0 || group == -1 || group == 32 || group == 64 || group == 128) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "groups of ", group, " columns are not supported; take 32, 64, 128, or -1 for whole rows"));
}

void SafetensorsFormat::TieFused() {
  for (ExportMatrix& matrix : matrices_) {
    if (matrix.role != ExportMatrix::Role::kLinear) continue;
    if (InputOf(matrix.id) == InputId::kAttention) matrix.tie = 2 * matrix.block;
    if (InputOf(matrix.id) == InputId::kMlp && spec_.gated) matrix.tie = 2 * matrix.block + 1;
  }
}

void SafetensorsFormat::SetTypes(const std::vector<const WeightType*>& types,
                                 const std::set<std::string>& reasons, ExportMatrix& matrix) const {
  for (const WeightType* type : types) {
    if (std::find(matrix.types.begin(), matrix.types.end(), type) == matrix.types.end()) {
      matrix.types.push_back(type);
    }
  }
  if (matrix.types.empty()) matrix.types = {Dense(StoredType(matrix))};
  std::stable_sort(
      matrix.types.begin(), matrix.types.end(), [&](const WeightType* a, const WeightType* b) {
        return a->Bytes(matrix.rows, matrix.columns) < b->Bytes(matrix.rows, matrix.columns);
      });
  matrix.fallback = absl::StrJoin(reasons, "; ");
}

SafetensorsFolder SafetensorsFormat::Draw(const std::vector<const WeightType*>& choice,
                                          const Matrix& matrix) const {
  std::map<std::string, size_t> index;  // of the matrices, by their tensors
  for (size_t i = 0; i < matrices_.size(); ++i) index[matrices_[i].name + ".weight"] = i;
  SafetensorsFolder folder(options_.split_bytes);
  for (const std::string& name : checkpoint_.names()) {
    const auto found = index.find(name);
    if (found == index.end()) {
      folder.Copy(checkpoint_, name);
      continue;
    }
    const size_t i = found->second;
    const WeightType* type = choice[i];
    const auto code = [this, &matrix, i, type](const SafetensorsFolder::Append& append) -> Status {
      CVXQ_ASSIGN_OR_RETURN(const ExportedMatrix exported, matrix(i));
      return type->dense() ? AppendFloats(exported.values, *type->dense(), append)
                           : AppendTensors(exported.grid, append);
    };
    if (type->dense()) {
      folder.Add({{name, *type->dense(), {matrices_[i].rows, matrices_[i].columns}}}, code);
    } else {
      folder.Add(Tensors(matrices_[i], *type), code);
    }
  }
  nlohmann::ordered_json config = checkpoint_.config();
  if (nlohmann::ordered_json quantization = Config(choice); !quantization.is_null()) {
    config["quantization_config"] = std::move(quantization);
  }
  folder.AddText("config.json", config.dump(2) + "\n");
  for (const auto& [name, text] : MoreFiles(choice)) folder.AddText(name, text);
  folder.AddCompanions(checkpoint_, companions_);
  return folder;
}

int64_t SafetensorsFormat::TotalBytes(const std::vector<const WeightType*>& choice) const {
  return Draw(choice, nullptr).TotalBytes();
}

Status SafetensorsFormat::Write(const std::vector<const WeightType*>& choice, const Matrix& matrix,
                                const std::string& folder) {
  return Draw(choice, matrix).Write(folder);
}

}  // namespace cvxq
