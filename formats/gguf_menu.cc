#include "formats/gguf_menu.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/gguf_matrix.h"

namespace cvxq {
namespace {

constexpr std::array kOwnMenu = {"f16",  "bf16", "q8_0",   "q6_k",   "q5_k",  "q4_k",
                                 "q3_k", "q2_k", "iq4_xs", "iq4_nl", "mxfp4", "nvfp4"};

// What llama.cpp takes instead of a type whose blocks the columns do not fill.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kSubstitutes = {
    {{"q2_k", "q4_0"},
     {"q3_k", "q4_0"},
     {"q4_k", "q5_0"},
     {"q5_k", "q5_1"},
     {"q6_k", "q8_0"},
     {"iq4_xs", "iq4_nl"}}};

const GgmlType* SubstituteOf(const GgmlType& type) {
  for (const auto& [name, substitute] : kSubstitutes) {
    if (name == type.name()) return FindGgmlType(substitute);
  }
  return nullptr;
}

constexpr std::array<std::pair<std::string_view, uint32_t>, 17> kFileTypes = {{{"f32", 0},
                                                                               {"f16", 1},
                                                                               {"q4_0", 2},
                                                                               {"q4_1", 3},
                                                                               {"q8_0", 7},
                                                                               {"q5_0", 8},
                                                                               {"q5_1", 9},
                                                                               {"q2_k", 10},
                                                                               {"q3_k", 12},
                                                                               {"q4_k", 15},
                                                                               {"q5_k", 17},
                                                                               {"q6_k", 18},
                                                                               {"iq4_nl", 25},
                                                                               {"iq4_xs", 30},
                                                                               {"bf16", 32},
                                                                               {"mxfp4", 38},
                                                                               {"nvfp4", 39}}};

}  // namespace

StatusOr<GgufMenu> GgufMenu::Make(const ExportFormatOptions& options) {
  if (!options.engine.empty() && options.engine != "llama.cpp") {
    return absl::InvalidArgumentError(
        absl::StrCat("gguf files are for llama.cpp, not for the engine ", options.engine));
  }
  GgufMenu menu;
  std::vector<std::string> names = options.menu;
  if (names.empty()) names.assign(kOwnMenu.begin(), kOwnMenu.end());
  for (const std::string& name : names) {
    const GgmlType* type = FindGgmlType(name);
    if (type == nullptr) {
      std::string known;
      for (const GgmlType* other : GgmlTypes()) {
        absl::StrAppend(&known, known.empty() ? "" : ", ", other->name());
      }
      return absl::InvalidArgumentError(
          absl::StrCat("gguf has no type \"", name, "\"; it has ", known));
    }
    menu.types_.push_back(type);
  }
  return menu;
}

void GgufMenu::Choose(DType stored, bool scaled, ExportMatrix& matrix) const {
  std::vector<const GgmlType*> types;
  const auto add = [&](const GgmlType* type) {
    if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(type);
  };
  const auto tell = [&](const std::string& why) {
    if (matrix.fallback.empty()) matrix.fallback = why;
  };
  for (const GgmlType* type : types_) {
    if (HasMatrixScale(*type) && !scaled) {
      tell(absl::StrCat("llama.cpp takes no scale of ", type->name(), " beside this matrix"));
      continue;
    }
    if (type->Fits(matrix.columns)) {
      add(type);
      continue;
    }
    tell(absl::StrCat(matrix.columns, " columns do not divide into blocks of ", type->block()));
    const GgmlType* substitute = SubstituteOf(*type);
    if (substitute != nullptr && substitute->Fits(matrix.columns)) add(substitute);
  }
  if (types.empty()) add(FindGgmlType(stored == DType::kBF16 ? "bf16" : "f16"));
  std::stable_sort(types.begin(), types.end(), [&](const GgmlType* a, const GgmlType* b) {
    return a->Bytes(matrix.rows, matrix.columns) < b->Bytes(matrix.rows, matrix.columns);
  });
  matrix.types.assign(types.begin(), types.end());
}

uint32_t GgufFileType(const std::vector<ExportMatrix>& matrices,
                      const std::vector<const WeightType*>& choice) {
  std::array<int64_t, kFileTypes.size()> weights{};
  for (size_t i = 0; i < matrices.size(); ++i) {
    for (size_t k = 0; k < kFileTypes.size(); ++k) {
      if (kFileTypes[k].first != choice[i]->name()) continue;
      weights[k] += matrices[i].rows * matrices[i].columns;
    }
  }
  return kFileTypes[std::max_element(weights.begin(), weights.end()) - weights.begin()].second;
}

}  // namespace cvxq
