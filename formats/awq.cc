// AWQ's GEMM layout: 4 bits with zero points in groups. Of a linear with N outputs and K inputs:
//
//   qweight  I32 [K, N / 8]        eight outputs in a word: bits [4 i, 4 i + 4) of word c hold
//                                  output 8 c + {0, 2, 4, 6, 1, 3, 5, 7}[i]
//   qzeros   I32 [groups, N / 8]   likewise
//   scales   F16 [groups, N]
//
// There is one width; modules may be left out by name. Engines compute q, k and v, and gate and up,
// as one: they are tied.
#include <array>
#include <map>
#include <set>
#include <utility>

#include "formats/awq_words.h"
#include "formats/int_types.h"
#include "formats/module_targets.h"
#include "formats/safetensors_format.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

constexpr int kBits = 4;

int64_t AwqBytes(const IntSpec& spec, int64_t rows, int64_t columns) {
  constexpr int64_t kScale = 2;
  const int64_t groups = GroupsOf(spec, columns);
  return (columns + groups) * rows / 2 + kScale * groups * rows;
}

class AwqFormat : public SafetensorsFormat {
 public:
  AwqFormat(const Checkpoint& checkpoint, const ArchSpec& spec, const ExportFormatOptions& options)
      : SafetensorsFormat(checkpoint, spec, options),
        type_("int4a",
              {.bits = kBits, .symmetric = false, .group = options.group, .scale = DType::kF16},
              AwqBytes) {}

  std::string name() const override { return "awq"; }

 protected:
  Status ReadMenu() override;
  Status FillTypes(ExportMatrix& matrix) override;
  std::vector<TensorEntry> Tensors(const ExportMatrix& matrix,
                                   const WeightType& type) const override;
  Status AppendTensors(const GridMatrix& grid,
                       const SafetensorsFolder::Append& append) const override;
  ordered_json Config(const std::vector<const WeightType*>& choice) const override;

 private:
  const IntType type_;
  bool int4_ = false, dense_ = false;
};

Status AwqFormat::ReadMenu() {
  CVXQ_RETURN_IF_ERROR(CheckOptions({"", "vllm"}));
  if (options_.group < 1) {
    return absl::InvalidArgumentError(
        "awq has no scales for whole rows; take groups of 32, 64, 128");
  }
  int4_ = options_.menu.empty();
  for (const std::string& name : options_.menu) {
    if (name == "int4a") {
      int4_ = true;
    } else if (name == "dense") {
      dense_ = true;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("the type ", name, " is not known for awq; it has int4a and dense"));
    }
  }
  return absl::OkStatus();
}

Status AwqFormat::FillTypes(ExportMatrix& matrix) {
  std::vector<const WeightType*> types;
  std::set<std::string> reasons;
  if (int4_ && matrix.rows % kAwqWord == 0 && type_.Fits(matrix.columns)) {
    types.push_back(&type_);
  } else if (int4_ && matrix.rows % kAwqWord != 0) {
    reasons.insert(absl::StrCat(matrix.rows, " rows do not divide into words of ", kAwqWord));
  } else if (int4_) {
    reasons.insert(
        absl::StrCat(matrix.columns, " columns do not divide into groups of ", options_.group));
  }
  if (dense_) types.push_back(Dense(StoredType(matrix)));
  SetTypes(types, reasons, matrix);
  return absl::OkStatus();
}

std::vector<TensorEntry> AwqFormat::Tensors(const ExportMatrix& matrix, const WeightType&) const {
  const int64_t N = matrix.rows, K = matrix.columns, groups = K / options_.group;
  return {{matrix.name + ".qweight", DType::kI32, {K, N / kAwqWord}},
          {matrix.name + ".qzeros", DType::kI32, {groups, N / kAwqWord}},
          {matrix.name + ".scales", DType::kF16, {groups, N}}};
}

Status AwqFormat::AppendTensors(const GridMatrix& grid,
                                const SafetensorsFolder::Append& append) const {
  const int64_t N = grid.rows, K = grid.columns, groups = K / options_.group;
  const int64_t width = grid.type->field_bytes();
  std::vector<uint32_t> codes(K * N / kAwqWord), zeros(groups * N / kAwqWord);
  PackAwq(grid.codes.data(), 1, K, K, N, codes.data());
  PackAwq(grid.fields.data() + 2, width, groups * width, groups, N, zeros.data());
  std::vector<uint16_t> scales(groups * N);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      scales[g * N + n] = ScaleField(&grid.fields[(n * groups + g) * width]);
    }
  }
  CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(codes))));
  CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(zeros))));
  return append(std::as_bytes(std::span(scales)));
}

ordered_json AwqFormat::Config(const std::vector<const WeightType*>& choice) const {
  std::vector<std::string> left;
  bool coded = false;
  for (size_t i = 0; i < choice.size(); ++i) {
    if (matrices_[i].role != ExportMatrix::Role::kLinear) continue;
    coded = coded || !choice[i]->dense();
    if (choice[i]->dense()) left.push_back(ModuleName(spec_, matrices_[i].name));
  }
  if (!coded) return nullptr;
  left.push_back(spec_.names.head);
  for (const std::string& name : {spec_.names.project_in, spec_.names.project_out}) {
    if (!name.empty()) left.push_back(ModuleName(spec_, name));
  }
  return {{"quant_method", "awq"}, {"bits", kBits},     {"group_size", options_.group},
          {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", left}};
}

}  // namespace

StatusOr<std::unique_ptr<ExportFormat>> MakeAwq(const Checkpoint& checkpoint, const ArchSpec& spec,
                                                const ExportFormatOptions& options) {
  auto format = std::make_unique<AwqFormat>(checkpoint, spec, options);
  CVXQ_RETURN_IF_ERROR(format->Prepare());
  return format;
}

}  // namespace cvxq
