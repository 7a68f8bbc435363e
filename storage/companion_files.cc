#include "storage/companion_files.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "storage/files.h"

namespace cvxq {
namespace {

constexpr std::array<std::string_view, 9> kCompanions = {
    "tokenizer.json",     "tokenizer_config.json",   "tokenizer.model",   "vocab.json",
    "merges.txt",         "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja"};

}  // namespace

StatusOr<std::map<std::string, int64_t>> CompanionFiles(const Folder& folder) {
  CVXQ_ASSIGN_OR_RETURN(const std::vector<Folder::File> files, folder.List());
  std::map<std::string, int64_t> companions;
  for (const Folder::File& file : files) {
    if (std::find(kCompanions.begin(), kCompanions.end(), file.name) != kCompanions.end()) {
      companions[file.name] = file.size;
    }
  }
  return companions;
}

Status CopyFiles(const Folder& from, const std::map<std::string, int64_t>& files,
                 const std::string& to) {
  for (const auto& [name, size] : files) {
    CVXQ_ASSIGN_OR_RETURN(const std::string contents, from.Read(name));
    CVXQ_RETURN_IF_ERROR(WriteFile(to + "/" + name, contents));
  }
  return absl::OkStatus();
}

}  // namespace cvxq
