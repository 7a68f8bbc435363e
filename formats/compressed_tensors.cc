// compressed-tensors, the format of llm-compressor and vLLM, which transformers loads as well: each
// linear has a type of its own.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "formats/compressed_layouts.h"
#include "formats/ggml_types.h"
#include "formats/module_targets.h"
#include "formats/safetensors_format.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

constexpr char kVersion[] = "0.20.0";  // whose packing this is
// What a menu calls the types that are no integers; `dense` is the checkpoint's own.
constexpr std::string_view kFp8 = "fp8", kNvfp4 = "nvfp4", kMxfp4 = "mxfp4", kDense = "dense";

class CompressedTensorsFormat : public SafetensorsFormat {
 public:
  using SafetensorsFormat::SafetensorsFormat;

  std::string name() const override { return "compressed-tensors"; }

 protected:
  Status ReadMenu() override;
  Status FillTypes(ExportMatrix& matrix) override;
  bool ties_fused() const override { return vllm_; }
  std::vector<TensorEntry> Tensors(const ExportMatrix& matrix,
                                   const WeightType& type) const override {
    return layouts_.at(&type)->Tensors(matrix.name, matrix.rows, matrix.columns);
  }
  Status AppendTensors(const GridMatrix& grid,
                       const SafetensorsFolder::Append& append) const override {
    return layouts_.at(grid.type)->Append(grid, append);
  }
  ordered_json Config(const std::vector<const WeightType*>& choice) const override;

 private:
  // The type of the menu for a matrix; nullptr where it cannot have it. Adds what is to be told.
  StatusOr<const WeightType*> TypeFor(const std::string& name, const ExportMatrix& matrix,
                                      std::set<std::string>& reasons);
  const WeightType* Keep(const std::string& key,
                         const std::function<std::unique_ptr<CompressedLayout>()>& make);
  // Why vLLM has no kernel for a matrix of this shape and type of the menu; empty if it has.
  std::string VllmRefuses(const ExportMatrix& matrix, const std::string& name) const;
  // The matrices that are computed as one with this one, itself included.
  std::vector<const ExportMatrix*> TiedWith(const ExportMatrix& matrix) const;
  StatusOr<float> Largest(const ExportMatrix& matrix) const;  // |w| of all tied

  bool vllm_ = false;
  std::vector<std::string> menu_;
  std::map<std::string, const WeightType*> kept_;
  std::map<const WeightType*, std::unique_ptr<CompressedLayout>> layouts_;
};

Status CompressedTensorsFormat::ReadMenu() {
  CVXQ_RETURN_IF_ERROR(CheckOptions({"", "vllm"}));
  vllm_ = options_.engine == "vllm";
  menu_ = options_.menu;
  if (menu_.empty()) {
    menu_ = vllm_ ? std::vector<std::string>{"int4", "int8", std::string(kDense)}
                  : std::vector<std::string>{"int2", "int3", "int4", "int5",
                                             "int6", "int7", "int8", std::string(kDense)};
  }
  for (const std::string& name : menu_) {
    const WeightType* gguf = FindGgmlType(name);
    if (ParseIntName(name) || name == kFp8 || name == kNvfp4 || name == kMxfp4 || name == kDense ||
        (gguf != nullptr && gguf->dense())) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "the type ", name, " is not known for compressed-tensors; it has int2 to int8 and, ",
        "asymmetric, int2a to int8a, each also with _g32, _g64, _g128 or _channel; fp8, nvfp4, ",
        "mxfp4; dense, or f32, f16, bf16"));
  }
  return absl::OkStatus();
}

const WeightType* CompressedTensorsFormat::Keep(
    const std::string& key, const std::function<std::unique_ptr<CompressedLayout>()>& make) {
  const WeightType*& type = kept_[key];
  if (type == nullptr) {
    std::unique_ptr<CompressedLayout> layout = make();
    type = &layout->type();
    layouts_[type] = std::move(layout);
  }
  return type;
}

std::vector<const ExportMatrix*> CompressedTensorsFormat::TiedWith(
    const ExportMatrix& matrix) const {
  std::vector<const ExportMatrix*> tied;
  for (const ExportMatrix& other : matrices_) {
    if (other.role != ExportMatrix::Role::kLinear || other.block != matrix.block) continue;
    const bool together = matrix.tie >= 0 && InputOf(other.id) == InputOf(matrix.id);
    if (together || other.id == matrix.id) tied.push_back(&other);
  }
  return tied;
}

StatusOr<float> CompressedTensorsFormat::Largest(const ExportMatrix& matrix) const {
  float largest = 0;
  for (const ExportMatrix* tied : TiedWith(matrix)) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_.Get(tied->name + ".weight"));
    CVXQ_ASSIGN_OR_RETURN(const std::vector<float> values, ToFloats(tensor));
    for (const float value : values) largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

std::string CompressedTensorsFormat::VllmRefuses(const ExportMatrix& matrix,
                                                 const std::string& name) const {
  const std::optional<IntName> integer = ParseIntName(name);
  if (integer && integer->bits != 4 && !(integer->bits == 8 && integer->symmetric)) {
    return absl::StrCat("vLLM has no kernel for ", name);
  }
  // Of its CPU kernels; those for GPUs pad.
  const int64_t multiple = integer && !integer->symmetric ? 128 : 32;
  if (matrix.rows % multiple == 0 && matrix.columns % multiple == 0) return "";
  return absl::StrCat("vLLM's kernels want multiples of ", multiple, " rows and columns, not ",
                      matrix.rows, " and ", matrix.columns);
}

StatusOr<const WeightType*> CompressedTensorsFormat::TypeFor(const std::string& name,
                                                             const ExportMatrix& matrix,
                                                             std::set<std::string>& reasons) {
  const DType stored = StoredType(matrix);
  if (name == kDense || name == Dense(stored)->name()) return Dense(stored);
  if (const WeightType* other = FindGgmlType(name); other != nullptr && other->dense()) {
    reasons.insert(absl::StrCat("the checkpoint has no ", name, " here"));
    return nullptr;
  }
  // A model in F32 has its scales in F16.
  const DType scale = stored == DType::kBF16 ? DType::kBF16 : DType::kF16;
  if (std::string reason = vllm_ ? VllmRefuses(matrix, name) : ""; !reason.empty()) {
    reasons.insert(std::move(reason));
    return nullptr;
  }
  if (const std::optional<IntName> integer = ParseIntName(name)) {
    const NamedIntSpec named = SpecFor(*integer, options_.group, matrix.columns, scale);
    NoteWholeRows(integer->group.value_or(options_.group), named, matrix.columns, reasons);
    return Keep(absl::StrCat(named.name, ",", named.spec.group),
                [&] { return PackedIntLayout(named); });
  }
  if (name == kFp8) {
    return Keep(absl::StrCat(name, ",", matrix.columns),
                [&] { return Fp8Layout(matrix.columns, scale); });
  }
  const Fp4Type::Kind kind = name == kNvfp4 ? Fp4Type::Kind::kNvfp4 : Fp4Type::Kind::kMxfp4;
  const int64_t block = Fp4Type(kind).block();
  if (matrix.columns % block != 0) {
    reasons.insert(absl::StrCat(matrix.columns, " columns do not divide into blocks of ", block,
                                ": no ", name));
    return nullptr;
  }
  std::string key = name;
  std::optional<float> largest;
  if (kind == Fp4Type::Kind::kNvfp4 && matrix.tie >= 0) {
    absl::StrAppend(&key, ",", matrix.tie);
    if (!kept_.contains(key)) {
      CVXQ_ASSIGN_OR_RETURN(largest, Largest(matrix));
    }
  }
  return Keep(key, [&] { return Fp4Layout(kind, largest); });
}

Status CompressedTensorsFormat::FillTypes(ExportMatrix& matrix) {
  std::vector<const WeightType*> types;
  std::set<std::string> reasons;
  for (const std::string& name : menu_) {
    CVXQ_ASSIGN_OR_RETURN(const WeightType* type, TypeFor(name, matrix, reasons));
    if (type != nullptr) types.push_back(type);
  }
  SetTypes(types, reasons, matrix);
  return absl::OkStatus();
}

ordered_json CompressedTensorsFormat::Config(const std::vector<const WeightType*>& choice) const {
  std::map<std::string, std::vector<size_t>> by_name;  // of types: what has them
  std::map<std::string, const CompressedLayout*> layout;
  std::set<std::string> formats;
  std::vector<size_t> dense;
  for (size_t i = 0; i < choice.size(); ++i) {
    if (choice[i]->dense()) {
      if (matrices_[i].role == ExportMatrix::Role::kLinear) dense.push_back(i);
      continue;
    }
    const std::string name = choice[i]->name();
    by_name[name].push_back(i);
    layout[name] = layouts_.at(choice[i]).get();
    formats.insert(layout[name]->format());
  }
  if (by_name.empty()) return nullptr;
  const bool mixed = formats.size() > 1;
  ordered_json groups;
  for (const auto& [name, chosen] : by_name) {
    ordered_json group = {{"targets", ModuleTargets(spec_, matrices_, chosen, "re:")}};
    if (mixed) group["format"] = layout[name]->format();
    group["input_activations"] = nullptr;
    group["output_activations"] = nullptr;
    group["weights"] = layout[name]->weights();
    groups[absl::StrCat("group_", groups.size())] = std::move(group);
  }
  // Engines want every linear to be either targeted or ignored.
  std::vector<std::string> ignore = ModuleTargets(spec_, matrices_, dense, "re:");
  ignore.push_back(spec_.names.head);
  for (const std::string& name : {spec_.names.project_in, spec_.names.project_out}) {
    if (!name.empty()) ignore.push_back(ModuleName(spec_, name));
  }
  return {{"quant_method", "compressed-tensors"},
          {"version", kVersion},
          {"format", mixed ? "mixed-precision" : *formats.begin()},
          {"quantization_status", "compressed"},
          {"ignore", ignore},
          {"config_groups", groups}};
}

}  // namespace

StatusOr<std::unique_ptr<ExportFormat>> MakeCompressedTensors(const Checkpoint& checkpoint,
                                                              const ArchSpec& spec,
                                                              const ExportFormatOptions& options) {
  auto format = std::make_unique<CompressedTensorsFormat>(checkpoint, spec, options);
  CVXQ_RETURN_IF_ERROR(format->Prepare());
  return format;
}

}  // namespace cvxq
