#include "formats/module_targets.h"

#include <array>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace cvxq {
namespace {

// Dots are all that is special in the names of modules.
std::string Escaped(const std::string& name) { return absl::StrReplaceAll(name, {{".", "\\."}}); }

// One expression for a linear of these blocks.
std::string BlocksExpression(const ArchSpec& spec, LinearId id,
                             const std::vector<int64_t>& blocks) {
  const std::string number = static_cast<int64_t>(blocks.size()) == spec.layers
                                 ? "\\d+"
                                 : absl::StrCat("(", absl::StrJoin(blocks, "|"), ")");
  const std::string pattern = ModuleName(spec, spec.names.linear[static_cast<int>(id)]);
  return absl::StrCat("^", absl::StrReplaceAll(Escaped(pattern), {{"{}", number}}), "$");
}

}  // namespace

std::string ModuleName(const ArchSpec& spec, const std::string& tensor_name) {
  const bool shortened = !spec.names.embedding.starts_with("model.");
  const bool whole = tensor_name.starts_with("model.") || tensor_name == spec.names.head;
  return shortened && !whole ? "model." + tensor_name : tensor_name;
}

std::string ExactExpression(const std::string& name) {
  return absl::StrCat("^", Escaped(name), "$");
}

std::vector<std::string> ModuleTargets(const ArchSpec& spec,
                                       const std::vector<ExportMatrix>& matrices,
                                       const std::vector<size_t>& chosen,
                                       const std::string& prefix) {
  std::vector<std::string> targets;
  std::array<std::vector<int64_t>, kLinearCount> blocks;
  for (const size_t i : chosen) {
    if (matrices[i].role == ExportMatrix::Role::kLinear) {
      blocks[static_cast<int>(matrices[i].id)].push_back(matrices[i].block);
    } else {
      targets.push_back(ModuleName(spec, matrices[i].name));
    }
  }
  for (const LinearId id : spec.linears()) {
    const std::vector<int64_t>& of_id = blocks[static_cast<int>(id)];
    if (of_id.empty()) continue;
    const std::string expression = prefix + BlocksExpression(spec, id, of_id);
    std::vector<std::string> names;
    size_t length = 0;
    for (const int64_t block : of_id) {
      names.push_back(ModuleName(spec, spec.LinearName(block, id)));
      length += names.back().size();
    }
    if (of_id.size() > 1 && expression.size() < length) names = {expression};
    targets.insert(targets.end(), names.begin(), names.end());
  }
  return targets;
}

}  // namespace cvxq
