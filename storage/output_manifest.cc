#include "storage/output_manifest.h"

#include <algorithm>

#include "storage/errors.h"
#include "storage/json.h"
#include "storage/s3/sigv4.h"

namespace cvxq {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "cvxq.output";
constexpr int kVersion = 1;
constexpr size_t kMostFiles = 1000;
constexpr int64_t kLargestFile = int64_t{1} << 50;

bool IsSha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// A member of a type, null if it is not there or of another.
const json* Member(const json& object, const char* name, json::value_t type) {
  const auto found = object.find(name);
  return found != object.end() && found->type() == type ? &*found : nullptr;
}

std::string Text(const json& object, const char* name) {
  const json* text = Member(object, name, json::value_t::string);
  return text == nullptr ? "" : text->get<std::string>();
}

}  // namespace

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." &&
         name.find("..") == std::string_view::npos &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) {
           return c == '/' || c == '\\' || c < 0x20 || c == 0x7f;
         });
}

std::string OutputManifest::Folder() const {
  std::string list;
  for (const auto& [name, file] : files) {
    absl::StrAppend(&list, name, "\n", file.size, "\n", file.sha256, "\n");
  }
  return Sha256Hex(list);
}

std::string OutputManifest::Serialize() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const auto& [name, file] : files) {
    list.push_back({{"name", name}, {"size", file.size}, {"sha256", file.sha256}});
  }
  const nlohmann::ordered_json manifest = {{"format", kFormat},
                                           {"version", kVersion},
                                           {"folder", Folder()},
                                           {"files", std::move(list)},
                                           {"facts", facts}};
  return manifest.dump(2) + "\n";
}

StatusOr<OutputManifest> OutputManifest::Parse(std::string_view text, const std::string& where) {
  const auto broken = [&](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", where, ": ", what, "; write the output again"));
  };
  CVXQ_ASSIGN_OR_RETURN(const json root, ParseJson(text, where));
  if (!root.is_object() || Text(root, "format") != kFormat) {
    return broken("it is no manifest of an output");
  }
  const auto version = root.find("version");
  if (version == root.end() || *version != kVersion) return broken("its version is not known");
  const json* files = Member(root, "files", json::value_t::array);
  if (files == nullptr) return broken("it has no list of files");
  if (files->size() > kMostFiles) return broken("it lists too many files");
  OutputManifest manifest;
  for (const json& entry : *files) {
    if (!entry.is_object()) return broken("a file is no object");
    const std::string name = Text(entry, "name");
    if (!IsPlainName(name)) return broken(Quoted(name) + " is no plain file name");
    const json* size = Member(entry, "size", json::value_t::number_unsigned);
    if (size == nullptr || size->get<uint64_t>() > uint64_t{kLargestFile}) {
      return broken("the size of " + Quoted(name) + " cannot be");
    }
    File file{size->get<int64_t>(), Text(entry, "sha256")};
    if (!IsSha256(file.sha256)) return broken("the checksum of " + Quoted(name) + " cannot be");
    if (!manifest.files.emplace(name, std::move(file)).second) {
      return broken(Quoted(name) + " is listed twice");
    }
  }
  if (const json* facts = Member(root, "facts", json::value_t::object)) manifest.facts = *facts;
  if (Text(root, "folder") != manifest.Folder())
    return broken("its folder is not that of its files");
  return manifest;
}

}  // namespace cvxq
