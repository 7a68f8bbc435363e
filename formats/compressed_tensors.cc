// compressed-tensors, the format of llm-compressor and vLLM, which transformers loads as well: each
// linear has a type of its own.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_join.h"
#include "formats/compressed_layouts.h"
#include "formats/module_targets.h"
#include "formats/safetensors_format.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

constexpr char kVersion[] = "0.20.0";  // whose packing this is

class CompressedTensorsFormat : public SafetensorsFormat {
 public:
  static StatusOr<std::unique_ptr<ExportFormat>> Make(const Checkpoint& checkpoint,
                                                      const ArchSpec& spec,
                                                      const ExportFormatOptions& options) {
    std::unique_ptr<CompressedTensorsFormat> format(
        new CompressedTensorsFormat(checkpoint, spec, options));
    CVXQ_RETURN_IF_ERROR(format->FindMatrices());
    CVXQ_RETURN_IF_ERROR(format->ReadMenu());
    for (ExportMatrix& matrix : format->matrices_) {
      if (matrix.role == ExportMatrix::Role::kLinear) format->FillTypes(matrix);
    }
    return format;
  }

  std::string name() const override { return "compressed-tensors"; }

 protected:
  using SafetensorsFormat::SafetensorsFormat;

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
  Status ReadMenu();
  void FillTypes(ExportMatrix& matrix);
  // The layout of this spec, which is made where it is new.
  const WeightType* Int(const NamedIntSpec& spec);
  // Why vLLM cannot take integers on a matrix; empty if it can.
  std::string VllmRefuses(const ExportMatrix& matrix, const NamedIntSpec& spec) const;
  int64_t FusedRows(const ExportMatrix& matrix) const;

  bool vllm_ = false;
  bool dense_ = false;            // whether the menu has the checkpoint's own type
  std::vector<IntName> integers_;  // of the menu
  std::map<std::pair<std::string, int64_t>, const WeightType*> ints_;  // by name and group
  std::map<const WeightType*, std::unique_ptr<CompressedLayout>> layouts_;
};

Status CompressedTensorsFormat::ReadMenu() {
  if (options_.engine != "" && options_.engine != "vllm") {
    return absl::InvalidArgumentError(absl::StrCat(
        "the engine ", options_.engine, " is not known for compressed-tensors; leave it out or ",
        "take vllm"));
  }
  vllm_ = options_.engine == "vllm";
  if (options_.group != 0 && options_.group != -1 && options_.group != 32 && options_.group != 64 &&
      options_.group != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("groups of ", options_.group,
                     " columns are not supported; take 32, 64, 128, or -1 for whole rows"));
  }
  std::vector<std::string> menu = options_.menu;
  if (menu.empty()) {
    menu = vllm_ ? std::vector<std::string>{"int4", "int8", "dense"}
                 : std::vector<std::string>{"int2", "int3", "int4", "int5",
                                            "int6", "int7", "int8", "dense"};
  }
  for (const std::string& name : menu) {
    if (const std::optional<IntName> integer = ParseIntName(name)) {
      integers_.push_back(*integer);
    } else if (name == "dense") {
      dense_ = true;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "the type ", name, " is not known for compressed-tensors; it has int2 to int8 and, ",
          "asymmetric, int2a to int8a, each also with _g32, _g64, _g128 or _channel; dense"));
    }
  }
  return absl::OkStatus();
}

const WeightType* CompressedTensorsFormat::Int(const NamedIntSpec& spec) {
  const WeightType*& type = ints_[{spec.name, spec.spec.group}];
  if (type == nullptr) {
    std::unique_ptr<CompressedLayout> layout = PackedIntLayout(spec);
    type = &layout->type();
    layouts_[type] = std::move(layout);
  }
  return type;
}

int64_t CompressedTensorsFormat::FusedRows(const ExportMatrix& matrix) const {
  int64_t rows = 0;
  for (const ExportMatrix& other : matrices_) {
    if (other.role != ExportMatrix::Role::kLinear || other.block != matrix.block) continue;
    if (other.id == matrix.id || (matrix.tie >= 0 && InputOf(other.id) == InputOf(matrix.id))) {
      rows += other.rows;
    }
  }
  return rows;
}

std::string CompressedTensorsFormat::VllmRefuses(const ExportMatrix& matrix,
                                                 const NamedIntSpec& named) const {
  constexpr int64_t kRows = 64, kColumns = 128;  // of the tiles of its Marlin kernels
  const IntSpec& spec = named.spec;
  if (spec.bits != 4 && (spec.bits != 8 || !spec.symmetric)) {
    return absl::StrCat("vLLM has no kernel for ", named.name);
  }
  if (FusedRows(matrix) % kRows != 0 || matrix.columns % kColumns != 0) {
    return absl::StrCat("vLLM's kernels want multiples of ", kRows, " rows and ", kColumns,
                        " columns");
  }
  return "";
}

void CompressedTensorsFormat::FillTypes(ExportMatrix& matrix) {
  const DType stored = StoredType(matrix);
  // A model in F32 has its scales in F16, which is what engines will run it in.
  const DType scale = stored == DType::kBF16 ? DType::kBF16 : DType::kF16;
  if (vllm_) {
    const bool attention = InputOf(matrix.id) == InputId::kAttention;
    const bool gated = InputOf(matrix.id) == InputId::kMlp && spec_.gated;
    if (attention) matrix.tie = 2 * matrix.block;
    if (gated) matrix.tie = 2 * matrix.block + 1;
  }
  std::set<std::string> reasons;
  for (const IntName& integer : integers_) {
    const NamedIntSpec named = SpecFor(integer, options_.group, matrix.columns, scale);
    if (std::string reason = vllm_ ? VllmRefuses(matrix, named) : ""; !reason.empty()) {
      reasons.insert(std::move(reason));
      continue;
    }
    const int64_t asked = integer.group.value_or(options_.group);
    if (asked > 0 && named.spec.channel) {
      reasons.insert(absl::StrCat(matrix.columns, " columns do not divide into groups of ", asked,
                                  ": one scale for a row"));
    }
    const WeightType* type = Int(named);
    if (std::find(matrix.types.begin(), matrix.types.end(), type) == matrix.types.end()) {
      matrix.types.push_back(type);
    }
  }
  if (dense_ || matrix.types.empty()) matrix.types.push_back(Dense(stored));
  std::stable_sort(matrix.types.begin(), matrix.types.end(),
                   [&](const WeightType* a, const WeightType* b) {
                     return a->Bytes(matrix.rows, matrix.columns) <
                            b->Bytes(matrix.rows, matrix.columns);
                   });
  matrix.fallback = absl::StrJoin(reasons, "; ");
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
  return CompressedTensorsFormat::Make(checkpoint, spec, options);
}

}  // namespace cvxq
