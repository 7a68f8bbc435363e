// GPTQ, version 1, as vLLM and GPTQModel load it. Of a linear with N outputs and K inputs:
//
//   qweight  I32 [K bits / 32, N]   codes along K, densely, lowest bits first
//   qzeros   I32 [groups, N bits / 32]   along N; what is stored is one less than the zero point
//   scales   F16 [groups, N]
//   g_idx    I32 [K]                the group of each input
//
// Widths may differ between modules through the config's `dynamic`; engines that compute q, k and
// v, or gate and up, as one want one width for them, so these are tied.
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_replace.h"
#include "formats/bit_pack.h"
#include "formats/int_types.h"
#include "formats/module_targets.h"
#include "formats/safetensors_format.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

int64_t GptqBytes(const IntSpec& spec, int64_t rows, int64_t columns) {
  constexpr int64_t kWord = 4, kScale = 2;
  const int64_t groups = GroupsOf(spec, columns);
  return kWord * (rows * WordsFor(columns, spec.bits) + groups * WordsFor(rows, spec.bits)) +
         kScale * groups * rows + kWord * columns;
}

class GptqFormat : public SafetensorsFormat {
 public:
  using SafetensorsFormat::SafetensorsFormat;

  std::string name() const override { return "gptq"; }

 protected:
  Status ReadMenu() override;
  Status FillTypes(ExportMatrix& matrix) override;
  std::vector<TensorEntry> Tensors(const ExportMatrix& matrix,
                                   const WeightType& type) const override;
  Status AppendTensors(const GridMatrix& grid,
                       const SafetensorsFolder::Append& append) const override;
  ordered_json Config(const std::vector<const WeightType*>& choice) const override;
  std::map<std::string, std::string> MoreFiles(
      const std::vector<const WeightType*>& choice) const override;

 private:
  bool dense_ = false;
  std::vector<IntName> integers_;
  std::map<std::pair<std::string, int64_t>, std::unique_ptr<IntType>> types_;  // by name, group
};

const IntSpec& SpecOf(const WeightType& type) { return static_cast<const IntType&>(type).spec(); }

Status GptqFormat::ReadMenu() {
  CVXQ_RETURN_IF_ERROR(CheckOptions({"", "vllm"}));
  std::vector<std::string> menu = options_.menu;
  if (menu.empty()) menu = {"int4", "int8", "dense"};
  for (const std::string& name : menu) {
    const std::optional<IntName> integer = ParseIntName(name);
    const bool narrow = integer && (integer->bits == 2 || integer->bits == 3);
    if (integer && integer->symmetric && (narrow || integer->bits == 4 || integer->bits == 8)) {
      if (narrow && options_.engine == "vllm") {
        return absl::InvalidArgumentError(
            absl::StrCat("vLLM loads GPTQ of 4 and 8 bits, not ", name));
      }
      integers_.push_back(*integer);
    } else if (name == "dense") {
      dense_ = true;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "the type ", name, " is not known for gptq; it has int4 and int8, for some ",
          "engines int2 and int3, each also with _g32, _g64, _g128 or _channel; dense"));
    }
  }
  return absl::OkStatus();
}

Status GptqFormat::FillTypes(ExportMatrix& matrix) {
  std::vector<const WeightType*> types;
  std::set<std::string> reasons;
  for (const IntName& integer : integers_) {
    if (matrix.rows % kWordBits != 0 || matrix.columns % kWordBits != 0) {
      reasons.insert(absl::StrCat("GPTQ wants multiples of ", kWordBits, " rows and columns, not ",
                                  matrix.rows, " and ", matrix.columns));
      break;
    }
    const NamedIntSpec named = SpecFor(integer, options_.group, matrix.columns, DType::kF16);
    NoteWholeRows(integer.group.value_or(options_.group), named, matrix.columns, reasons);
    std::unique_ptr<IntType>& type = types_[{named.name, named.spec.group}];
    if (type == nullptr) type = std::make_unique<IntType>(named.name, named.spec, GptqBytes);
    types.push_back(type.get());
  }
  if (dense_) types.push_back(Dense(StoredType(matrix)));
  SetTypes(types, reasons, matrix);
  return absl::OkStatus();
}

std::vector<TensorEntry> GptqFormat::Tensors(const ExportMatrix& matrix,
                                             const WeightType& type) const {
  const IntSpec& spec = SpecOf(type);
  const int64_t N = matrix.rows, K = matrix.columns, groups = GroupsOf(spec, K);
  return {{matrix.name + ".qweight", DType::kI32, {WordsFor(K, spec.bits), N}},
          {matrix.name + ".qzeros", DType::kI32, {groups, WordsFor(N, spec.bits)}},
          {matrix.name + ".scales", DType::kF16, {groups, N}},
          {matrix.name + ".g_idx", DType::kI32, {K}}};
}

Status GptqFormat::AppendTensors(const GridMatrix& grid,
                                 const SafetensorsFolder::Append& append) const {
  const IntSpec& spec = SpecOf(*grid.type);
  const int64_t N = grid.rows, K = grid.columns, groups = GroupsOf(spec, K);
  std::vector<uint32_t> codes(WordsFor(K, spec.bits) * N);
  std::vector<uint16_t> scales(groups * N);
  for (int64_t n = 0; n < N; ++n) {
    PackCodes(&grid.codes[n * K], 1, K, spec.bits, &codes[n], N);
    for (int64_t g = 0; g < groups; ++g) {
      scales[g * N + n] = ScaleField(&grid.fields[(n * groups + g) * grid.type->field_bytes()]);
    }
  }
  const std::vector<uint8_t> zero(N, static_cast<uint8_t>((1 << (spec.bits - 1)) - 1));
  const int64_t words = WordsFor(N, spec.bits);
  std::vector<uint32_t> zeros(groups * words);
  for (int64_t g = 0; g < groups; ++g) {
    PackCodes(zero.data(), 1, N, spec.bits, &zeros[g * words], 1);
  }
  std::vector<int32_t> group(K);
  for (int64_t k = 0; k < K; ++k) group[k] = static_cast<int32_t>(k / spec.group);
  CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(codes))));
  CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(zeros))));
  CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(scales))));
  return append(std::as_bytes(std::span(group)));
}

// An expression for engines that give fused modules names of their own.
std::string FusedExpression(const std::string& expression) {
  return absl::StrReplaceAll(expression, {{"q_proj", "qkv_proj"}, {"gate_proj", "gate_up_proj"}});
}

ordered_json GptqFormat::Config(const std::vector<const WeightType*>& choice) const {
  std::map<std::string, std::vector<size_t>> by_name;
  std::map<std::string, IntSpec> specs;
  std::vector<size_t> dense;
  for (size_t i = 0; i < choice.size(); ++i) {
    if (matrices_[i].role != ExportMatrix::Role::kLinear) continue;
    if (choice[i]->dense()) {
      dense.push_back(i);
    } else {
      by_name[choice[i]->name()].push_back(i);
      specs[choice[i]->name()] = SpecOf(*choice[i]);
    }
  }
  if (by_name.empty()) return nullptr;
  std::string most = by_name.begin()->first;  // what most matrices have
  for (const auto& [name, chosen] : by_name) {
    if (chosen.size() > by_name[most].size()) most = name;
  }
  const auto group_size = [](const IntSpec& spec) { return spec.channel ? -1 : spec.group; };
  ordered_json dynamic = ordered_json::object();
  const auto add = [&](const char* sign, const std::vector<size_t>& chosen,
                       const ordered_json& rule) {
    for (const std::string& target : ModuleTargets(spec_, matrices_, chosen, "^")) {
      const std::string expression =
          target.starts_with("^") ? target.substr(1) : ExactExpression(target);
      dynamic[sign + expression] = rule;
      dynamic[sign + FusedExpression(expression)] = rule;
    }
  };
  add("-:", dense, ordered_json::object());
  for (const auto& [name, chosen] : by_name) {
    const IntSpec& spec = specs[name];
    if (name != most) add("+:", chosen, {{"bits", spec.bits}, {"group_size", group_size(spec)}});
  }
  ordered_json config = {{"quant_method", "gptq"},
                         {"bits", specs[most].bits},
                         {"group_size", group_size(specs[most])},
                         {"desc_act", false},
                         {"sym", true},
                         {"lm_head", false},
                         {"checkpoint_format", "gptq"},
                         {"pack_dtype", "int32"}};
  if (!dynamic.empty()) config["dynamic"] = std::move(dynamic);
  return config;
}

std::map<std::string, std::string> GptqFormat::MoreFiles(
    const std::vector<const WeightType*>& choice) const {
  const ordered_json config = Config(choice);
  if (config.is_null()) return {};
  return {{"quantize_config.json", config.dump(2) + "\n"}};
}

}  // namespace

StatusOr<std::unique_ptr<ExportFormat>> MakeGptq(const Checkpoint& checkpoint, const ArchSpec& spec,
                                                 const ExportFormatOptions& options) {
  auto format = std::make_unique<GptqFormat>(checkpoint, spec, options);
  CVXQ_RETURN_IF_ERROR(format->Prepare());
  return format;
}

}  // namespace cvxq
